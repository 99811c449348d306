// Reading a stranger's file in a child process with limits on memory and time. Internal to core/trace.
//
// The child opens the file and answers requests over a socket (names, attributes, shapes); the bytes of datasets come
// through shared memory, two slots in turn, so that the next piece is read while this one is converted. Nothing that the
// child says is believed: lengths are checked against what was asked for, and a child that crashes, hangs or grows too
// large becomes an Error. `sandbox_process.cpp` starts it, `sandbox_server.cpp` is what it runs, `sandbox_source.cpp` is
// the Source that asks it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kvreplay::sandbox {

constexpr std::size_t slot_bytes = std::size_t{4} << 20;
constexpr int slots = 2;

enum class Message : std::uint32_t {
  open,             // path -> file size, left open
  kind,             // node -> NodeKind
  children,         // group -> names
  attribute_names,  // node -> names
  attribute,        // node, name -> value
  dataset,          // node -> DatasetInfo
  read,             // node, start, count -> pieces, then done
  stored_chunk,     // node, index -> pieces, then done
  answer,           // the child's reply to one of these
  piece,            // so many bytes lie in the next slot
  done,             // no more pieces
  failed,           // an Error's text
  go_on,            // from the parent: a slot is free again
  stop,             // from the parent: no more pieces, please
};

// Values one after the other. A Reader throws Error when the bytes do not hold what is asked for.
class Writer {
 public:
  void number(std::int64_t value);
  void real(double value);
  void text(const std::string& value);
  void numbers(std::span<const std::int64_t> values);
  void texts(const std::vector<std::string>& values);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string bytes) : bytes_(std::move(bytes)) {}
  std::int64_t number();
  double real();
  std::string text();
  std::vector<std::int64_t> numbers();
  std::vector<std::string> texts();

 private:
  void take(void* target, std::size_t size);
  std::size_t count(std::size_t smallest);
  std::string bytes_;
  std::size_t at_ = 0;
};

// Both return false when the other side is gone (or, receiving, when timeout_ms passed; negative waits for ever).
bool send_message(int socket, Message kind, const std::string& bytes);
bool receive_message(int socket, Message& kind, std::string& bytes, int timeout_ms);

// A running child. Killed and waited for when this goes away.
class Process {
 public:
  Process();
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  int socket() const { return socket_; }
  std::span<const std::byte> slot(int index) const {
    return {memory_ + static_cast<std::size_t>(index) * slot_bytes, slot_bytes};
  }
  // Waits for a child that has closed its end. "crashed (signal 11)", "took too long", ...: for a message.
  std::string how_it_ended();

 private:
  pid_t child_ = -1;
  int socket_ = -1;
  const std::byte* memory_ = nullptr;
};

// What the child runs; returns when the parent has closed its end.
void serve(int socket, std::byte* memory);

// Limits for this process, before and after it has opened its file. Allows `cpu_seconds` of computing from now on.
void limit_this_process();
void forbid_system_calls();
void allow_cpu_seconds(int cpu_seconds);

}  // namespace kvreplay::sandbox
