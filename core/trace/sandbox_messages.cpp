#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "core/trace/sandbox_internal.h"

namespace kvreplay::sandbox {
namespace {

constexpr std::uint64_t most_bytes = std::uint64_t{64} << 20;

struct Header {
  std::uint32_t kind;
  std::uint32_t size;
};

bool send_all(int socket, const void* data, std::size_t size) {
  const auto* p = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = send(socket, p, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    p += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

bool receive_all(int socket, void* data, std::size_t size, int timeout_ms) {
  auto* p = static_cast<char*>(data);
  while (size > 0) {
    pollfd waiting{socket, POLLIN, 0};
    const int ready = poll(&waiting, 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t n = recv(socket, p, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    p += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

void Writer::number(std::int64_t value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
void Writer::real(double value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
void Writer::text(const std::string& value) {
  number(static_cast<std::int64_t>(value.size()));
  bytes_ += value;
}
void Writer::numbers(std::span<const std::int64_t> values) {
  number(static_cast<std::int64_t>(values.size()));
  for (const auto value : values) number(value);
}
void Writer::texts(const std::vector<std::string>& values) {
  number(static_cast<std::int64_t>(values.size()));
  for (const auto& value : values) text(value);
}

void Reader::take(void* target, std::size_t size) {
  if (size > bytes_.size() - at_) throw Error("sandbox", "an answer ends too early");
  if (size == 0) return;  // an empty list's target is null
  std::memcpy(target, bytes_.data() + at_, size);
  at_ += size;
}

std::int64_t Reader::number() {
  std::int64_t value = 0;
  take(&value, sizeof value);
  return value;
}

double Reader::real() {
  double value = 0;
  take(&value, sizeof value);
  return value;
}

// A count of things of at least `smallest` bytes each: never more than the bytes that are left can hold.
std::size_t Reader::count(std::size_t smallest) {
  const std::int64_t n = number();
  if (n < 0 || static_cast<std::uint64_t>(n) > (bytes_.size() - at_) / smallest)
    throw Error("sandbox", "an answer makes no sense");
  return static_cast<std::size_t>(n);
}

std::string Reader::text() {
  std::string value(count(1), '\0');
  take(value.data(), value.size());
  return value;
}

std::vector<std::int64_t> Reader::numbers() {
  std::vector<std::int64_t> values(count(sizeof(std::int64_t)));
  take(values.data(), values.size() * sizeof(std::int64_t));
  return values;
}

std::vector<std::string> Reader::texts() {
  std::vector<std::string> values(count(sizeof(std::int64_t)));
  for (auto& value : values) value = text();
  return values;
}

bool send_message(int socket, Message kind, const std::string& bytes) {
  const Header header{static_cast<std::uint32_t>(kind), static_cast<std::uint32_t>(bytes.size())};
  return bytes.size() <= most_bytes && send_all(socket, &header, sizeof header) &&
         send_all(socket, bytes.data(), bytes.size());
}

bool receive_message(int socket, Message& kind, std::string& bytes, int timeout_ms) {
  Header header{};
  if (!receive_all(socket, &header, sizeof header, timeout_ms)) return false;
  if (header.kind > static_cast<std::uint32_t>(Message::stop) || header.size > most_bytes) return false;
  kind = static_cast<Message>(header.kind);
  bytes.resize(header.size);
  return receive_all(socket, bytes.data(), bytes.size(), timeout_ms);
}

}  // namespace kvreplay::sandbox
