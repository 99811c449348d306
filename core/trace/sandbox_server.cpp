#include <cstring>
#include <new>

#include "core/base/error.h"
#include "core/trace/sandbox_internal.h"
#include "core/trace/source_internal.h"

namespace kvreplay::sandbox {
namespace {

// Names and shapes take milliseconds; a piece may mean decoding a large chunk.
constexpr int cpu_seconds_per_request = 2, cpu_seconds_per_piece = 8;

struct ParentGone {};
struct Stopped {};

class Server {
 public:
  Server(int socket, std::byte* memory) : socket_(socket), memory_(memory) {}

  void run() {
    try {
      for (;;) {
        Message kind{};
        std::string bytes;
        if (!receive_message(socket_, kind, bytes, -1)) return;
        allow_cpu_seconds(cpu_seconds_per_request);
        try {
          answer(kind, Reader(std::move(bytes)));
        } catch (const Error& error) {
          send(Message::failed, error.what());
        } catch (const std::bad_alloc&) {
          send(Message::failed, "reading it needs more memory than files of others are given");
        } catch (const std::exception& error) {
          send(Message::failed, error.what());
        }
      }
    } catch (const ParentGone&) {
    }
  }

 private:
  void send(Message kind, const std::string& bytes) const {
    if (!send_message(socket_, kind, bytes)) throw ParentGone{};
  }
  void reply(const Writer& out) const { send(Message::answer, out.bytes()); }

  const Source& source() const {
    if (!source_) throw Error("sandbox", "no file is open");
    return *source_;
  }

  void answer(Message kind, Reader in) {
    Writer out;
    switch (kind) {
      case Message::open:
        source_ = open_direct_source(in.text());
        forbid_system_calls();
        out.number(source_->file_size());
        out.number(source_->left_open() ? 1 : 0);
        return reply(out);
      case Message::kind: out.number(static_cast<std::int64_t>(source().kind(in.text()))); return reply(out);
      case Message::children: out.texts(source().children(in.text())); return reply(out);
      case Message::attribute_names: out.texts(source().attribute_names(in.text())); return reply(out);
      case Message::attribute: return answer_attribute(in);
      case Message::dataset: return answer_dataset(in);
      case Message::read: return stream(in);
      case Message::stored_chunk: return stream_chunk(in);
      default: throw Error("sandbox", "an unknown request");
    }
  }

  void answer_attribute(Reader& in) const {
    const std::string node = in.text(), name = in.text();
    const auto value = source().attribute(node, name);
    Writer out;
    out.number(value ? static_cast<std::int64_t>(value->index()) : -1);
    if (!value) return reply(out);
    if (const auto* v = std::get_if<std::int64_t>(&*value)) out.number(*v);
    if (const auto* v = std::get_if<double>(&*value)) out.real(*v);
    if (const auto* v = std::get_if<std::string>(&*value)) out.text(*v);
    if (const auto* v = std::get_if<std::vector<std::int64_t>>(&*value)) out.numbers(*v);
    if (const auto* v = std::get_if<std::vector<double>>(&*value)) {
      out.number(static_cast<std::int64_t>(v->size()));
      for (const double element : *v) out.real(element);
    }
    if (const auto* v = std::get_if<std::vector<std::string>>(&*value)) out.texts(*v);
    reply(out);
  }

  void answer_dataset(Reader& in) const {
    const DatasetInfo info = source().dataset(in.text());
    Writer out;
    out.numbers(info.shape);
    out.number(static_cast<std::int64_t>(info.type.kind));
    out.number(info.type.size);
    out.number(info.bfloat16 ? 1 : 0);
    out.numbers(info.chunk);
    out.numbers(std::vector<std::int64_t>(info.filters.begin(), info.filters.end()));
    out.number(info.stored_bytes);
    out.text(info.refusal);
    reply(out);
  }

  // Each piece waits for a free slot, so that at most two are on their way.
  void send_piece(std::span<const std::byte> piece) {
    while (!piece.empty()) {
      const std::size_t n = std::min(piece.size(), slot_bytes);
      if (in_flight_ == slots) await_slot();
      std::memcpy(memory_ + static_cast<std::size_t>(next_slot_) * slot_bytes, piece.data(), n);
      Writer out;
      out.number(static_cast<std::int64_t>(n));
      send(Message::piece, out.bytes());
      ++in_flight_;
      next_slot_ = (next_slot_ + 1) % slots;
      piece = piece.subspan(n);
      allow_cpu_seconds(cpu_seconds_per_piece);
    }
  }

  void await_slot() {
    Message kind{};
    std::string bytes;
    if (!receive_message(socket_, kind, bytes, -1)) throw ParentGone{};
    if (kind == Message::stop) stopped_ = true;
    --in_flight_;
    if (stopped_) throw Stopped{};
  }

  template <class Produce>
  void stream_with(const Produce& produce) {
    in_flight_ = next_slot_ = 0;
    stopped_ = false;
    std::string failure;
    Message last = Message::done;
    allow_cpu_seconds(cpu_seconds_per_piece);
    try {
      produce();
    } catch (const Stopped&) {
    } catch (const Error& error) {
      failure = error.what();
      last = Message::failed;
    }
    // Every piece is answered, so that no answer is left for the next request to trip over.
    send(last, failure);
    while (in_flight_ > 0) {
      try {
        await_slot();
      } catch (const Stopped&) {
      }
    }
  }

  void stream(Reader& in) {
    const std::string node = in.text();
    const auto start = in.numbers(), count = in.numbers();
    stream_with([&] { source().read(node, start, count, [this](std::span<const std::byte> piece) { send_piece(piece); }); });
  }

  void stream_chunk(Reader& in) {
    const std::string node = in.text();
    const std::int64_t index = in.number();
    stream_with([&] { send_piece(source().stored_chunk(node, index)); });
  }

  int socket_;
  std::byte* memory_;
  std::unique_ptr<Source> source_;
  int in_flight_ = 0, next_slot_ = 0;
  bool stopped_ = false;
};

}  // namespace

void serve(int socket, std::byte* memory) { Server(socket, memory).run(); }

}  // namespace kvreplay::sandbox
