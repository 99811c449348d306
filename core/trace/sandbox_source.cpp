#include <map>
#include <mutex>
#include <optional>

#include "core/base/error.h"
#include "core/trace/identity.h"
#include "core/trace/sandbox_internal.h"
#include "core/trace/source_internal.h"

namespace kvreplay {
namespace {

using sandbox::Message;
using sandbox::Reader;
using sandbox::Writer;

constexpr int patience_ms = 60'000;  // for one answer or one piece; a slow disk gives 4 MiB in much less

class SandboxSource final : public Source {
 public:
  explicit SandboxSource(const std::string& path) : path_(path) {
    Writer request;
    request.text(path);
    Reader answer = ask(Message::open, request);
    file_size_ = answer.number();
    left_open_ = answer.number() != 0;
  }

  const std::string& path() const override { return path_; }
  std::int64_t file_size() const override { return file_size_; }
  bool left_open() const override { return left_open_; }

  NodeKind kind(const std::string& node) const override {
    const std::int64_t value = ask_about(Message::kind, node).number();
    return value >= 0 && value <= static_cast<std::int64_t>(NodeKind::other) ? static_cast<NodeKind>(value)
                                                                             : NodeKind::other;
  }
  std::vector<std::string> children(const std::string& group) const override {
    return ask_about(Message::children, group).texts();
  }
  std::vector<std::string> attribute_names(const std::string& node) const override {
    return ask_about(Message::attribute_names, node).texts();
  }

  std::optional<AttributeValue> attribute(const std::string& node, const std::string& name) const override {
    Writer request;
    request.text(node);
    request.text(name);
    Reader answer = ask(Message::attribute, request);
    switch (answer.number()) {
      case 0: return answer.number();
      case 1: return answer.real();
      case 2: return answer.text();
      case 3: return answer.numbers();
      case 4: {
        std::vector<double> values;
        for (std::int64_t n = answer.number(); n > 0; --n) values.push_back(answer.real());
        return values;
      }
      case 5: return answer.texts();
      default: return std::nullopt;
    }
  }

  DatasetInfo dataset(const std::string& node) const override {
    const std::lock_guard lock(mutex_);
    return info_of(node);
  }

  void read(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
            const ByteSink& sink) const override {
    const std::lock_guard lock(mutex_);
    const DatasetInfo info = info_of(node);
    if (!info.refusal.empty()) throw Error(place(*this, node), info.refusal);
    std::int64_t bytes = info.type.size;
    for (const auto n : count) bytes *= n;
    Writer request;
    request.text(node);
    request.numbers(start);
    request.numbers(count);
    const std::int64_t received = stream(Message::read, request, bytes, sink);
    if (received != bytes) throw Error(place(*this, node), "gave fewer bytes than its shape says");
  }

  std::vector<std::byte> stored_chunk(const std::string& node, std::int64_t index) const override {
    const std::lock_guard lock(mutex_);
    const DatasetInfo info = info_of(node);
    std::int64_t most = info.type.size;
    for (const auto n : info.chunk.empty() ? info.shape : info.chunk) most *= n;
    Writer request;
    request.text(node);
    request.number(index);
    std::vector<std::byte> chunk;
    stream(Message::stored_chunk, request, most * 2 + 4096,
           [&](std::span<const std::byte> piece) { chunk.insert(chunk.end(), piece.begin(), piece.end()); });
    return chunk;
  }

 private:
  [[noreturn]] void lost() const {
    const std::string how = process_.how_it_ended();
    broken_ = true;
    throw Error(path_, "reading it in a child process " + how, "it is damaged or made to break readers: get a good copy");
  }

  void send(Message kind, const std::string& bytes) const {
    if (broken_) throw Error(path_, "cannot be read any more: its reader has ended");
    if (!sandbox::send_message(process_.socket(), kind, bytes)) lost();
  }

  Message receive(std::string& bytes) const {
    Message kind{};
    if (!sandbox::receive_message(process_.socket(), kind, bytes, patience_ms)) lost();
    return kind;
  }

  Reader exchange(Message kind, const Writer& request) const {
    send(kind, request.bytes());
    std::string bytes;
    const Message answer = receive(bytes);
    if (answer == Message::failed) throw Error("", bytes);
    if (answer != Message::answer) lost();
    return Reader(std::move(bytes));
  }

  Reader ask(Message kind, const Writer& request) const {
    const std::lock_guard lock(mutex_);
    return exchange(kind, request);
  }
  Reader ask_about(Message kind, const std::string& node) const {
    Writer request;
    request.text(node);
    return ask(kind, request);
  }

  // What the child said first is what counts: later answers cannot change how much memory somebody has made ready.
  const DatasetInfo& info_of(const std::string& node) const {
    const auto known = infos_.find(node);
    if (known != infos_.end()) return known->second;
    Writer request;
    request.text(node);
    Reader answer = exchange(Message::dataset, request);
    DatasetInfo info;
    info.shape = answer.numbers();
    const std::int64_t kind = answer.number();
    info.type.kind =
        kind >= 0 && kind < static_cast<std::int64_t>(StoredKind::other) ? static_cast<StoredKind>(kind) : StoredKind::other;
    info.type.size = answer.number();
    info.bfloat16 = answer.number() != 0;
    info.chunk = answer.numbers();
    for (const auto filter : answer.numbers()) info.filters.push_back(static_cast<int>(filter));
    info.stored_bytes = answer.number();
    info.refusal = answer.text();
    if (info.refusal.empty()) check_limits(node, info);
    if (infos_.size() > 100'000) infos_.clear();
    return infos_.emplace(node, std::move(info)).first->second;
  }

  // The child has checked the same, but it may be under the file's control.
  void check_limits(const std::string& node, const DatasetInfo& info) const {
    std::int64_t elements = 1;
    bool good =
        info.type.size > 0 && info.type.size <= 65536 && (info.chunk.empty() || info.chunk.size() == info.shape.size());
    for (const auto& list : {info.shape, info.chunk}) {
      elements = 1;
      for (const auto n : list) {
        good = good && n >= 0 && n <= (std::int64_t{1} << 40) && (n == 0 || elements <= (std::int64_t{1} << 44) / n);
        if (!good) throw Error(place(*this, node), "has an impossible shape");
        elements *= std::max<std::int64_t>(1, n);
      }
    }
    if (!good) throw Error(place(*this, node), "has an impossible shape");
    if (info.bfloat16 && info.type.size != 2) throw Error(place(*this, node), "has an impossible type");
  }

  // Receives pieces until the child is done; returns their bytes. Throws Error when they are more than `most`.
  std::int64_t stream(Message kind, const Writer& request, std::int64_t most, const ByteSink& sink) const {
    send(kind, request.bytes());
    std::int64_t received = 0;
    std::exception_ptr failure;
    int slot = 0;
    for (;;) {
      std::string bytes;
      const Message answer = receive(bytes);
      if (answer == Message::done) break;
      if (answer == Message::failed) {
        if (!failure) failure = std::make_exception_ptr(Error("", bytes));
        break;
      }
      if (answer != Message::piece) lost();
      const std::int64_t size = Reader(bytes).number();
      if (size < 0 || size > static_cast<std::int64_t>(sandbox::slot_bytes) || size > most - received) lost();
      try {
        if (!failure) sink(process_.slot(slot).first(static_cast<std::size_t>(size)));
      } catch (...) {
        failure = std::current_exception();  // the rest is not wanted
      }
      received += size;
      slot = (slot + 1) % sandbox::slots;
      send(failure ? Message::stop : Message::go_on, {});
    }
    if (failure) std::rethrow_exception(failure);
    return received;
  }

  std::string path_;
  mutable sandbox::Process process_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, DatasetInfo> infos_;
  mutable bool broken_ = false;
  std::int64_t file_size_ = 0;
  bool left_open_ = false;
};

}  // namespace

std::unique_ptr<Source> open_source(const std::string& path, Trust trust) {
  const bool direct = trust == Trust::trusted || (trust == Trust::automatic && is_file_written_here(path));
  if (direct) return open_direct_source(path);
  return std::make_unique<SandboxSource>(path);
}

}  // namespace kvreplay
