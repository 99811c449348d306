#include "core/model/text_pipeline.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/base/utf8.h"
#include "core/model/regular_expression.h"
#include "core/model/unicode_normalization.h"

namespace kvreplay {
namespace {

using nlohmann::json;

// The expressions as the models' own files and programs give them.
constexpr const char* gpt2_expression = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* llama3_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// ---- what descriptions say ----

const json& member(const json& object, const char* key, const std::string& where) {
  if (!object.is_object() || !object.contains(key)) throw Error(where, "\"" + std::string(key) + "\" is missing");
  return object.at(key);
}

std::string text_member(const json& object, const char* key, const std::string& where) {
  const json& value = member(object, key, where);
  if (!value.is_string()) throw Error(where, "\"" + std::string(key) + "\" is no text");
  return value.get<std::string>();
}

bool flag(const json& object, const char* key, bool fallback) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

// {"String": " "} or {"Regex": "\\s"}.
RegularExpression pattern_of(const json& description, const std::string& where) {
  const json& pattern = member(description, "pattern", where);
  if (pattern.is_string()) return {where, RegularExpression::quoted(pattern.get<std::string>())};
  if (pattern.is_object() && pattern.contains("String"))
    return {where, RegularExpression::quoted(text_member(pattern, "String", where))};
  return {where, text_member(pattern, "Regex", where)};
}

// ---- normalizers ----

class NfcNormalizer final : public Normalizer {
 public:
  std::string apply(std::string text) const override { return normalize_nfc(text); }
};

class PrependNormalizer final : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string apply(std::string text) const override { return text.empty() ? text : prefix_ + text; }

 private:
  std::string prefix_;
};

class ReplaceNormalizer final : public Normalizer {
 public:
  ReplaceNormalizer(RegularExpression pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::string apply(std::string text) const override {
    std::string out;
    std::size_t done = 0;
    pattern_.for_each_match(text, [&](std::size_t begin, std::size_t end) {
      out.append(text, done, begin - done);
      out += content_;
      done = end;
    });
    if (done == 0) return text;
    out.append(text, done);
    return out;
  }

 private:
  RegularExpression pattern_;
  std::string content_;
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
  std::string apply(std::string text) const override {
    for (const auto& step : steps_) text = step->apply(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

// ---- pre-tokenizers ----

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Behavior behavior_of(const std::string& name, const std::string& where) {
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  throw Error(where, "unknown behavior \"" + name + "\"");
}

class SplitPreTokenizer final : public PreTokenizer {
 public:
  SplitPreTokenizer(RegularExpression pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void split(std::string_view text, bool first, const Sink& sink) const override {
    if (behavior_ == Behavior::isolated) {  // what nearly all models use: nothing has to be remembered
      std::size_t done = 0;
      const auto emit = [&](std::size_t begin, std::size_t end) {
        if (end > begin) sink(text.substr(begin, end - begin), first && begin == 0);
      };
      pattern_.for_each_match(text, [&](std::size_t begin, std::size_t end) {
        emit(done, begin);
        emit(begin, end);
        done = end;
      });
      emit(done, text.size());
      return;
    }
    std::vector<Part> parts;
    std::size_t done = 0;
    const auto add = [&](std::size_t begin, std::size_t end, bool match) {
      if (end > begin) parts.push_back({begin, end, match != invert_});
    };
    pattern_.for_each_match(text, [&](std::size_t begin, std::size_t end) {
      add(done, begin, false);
      add(begin, end, true);
      done = end;
    });
    add(done, text.size(), false);
    for (const Part& part : joined(parts))
      if (part.end > part.begin) sink(text.substr(part.begin, part.end - part.begin), first && part.begin == 0);
  }

 private:
  struct Part {
    std::size_t begin, end;
    bool match;
  };

  std::vector<Part> joined(const std::vector<Part>& parts) const {
    std::vector<Part> out;
    bool previous_match = false;
    for (const Part& part : parts) {
      const bool joins = !out.empty() && ((behavior_ == Behavior::contiguous && part.match == previous_match) ||
                                          (behavior_ == Behavior::merged_with_previous && part.match && !previous_match) ||
                                          (behavior_ == Behavior::merged_with_next && !part.match && previous_match));
      previous_match = part.match;
      if (behavior_ == Behavior::removed && part.match) continue;
      if (joins) {
        out.back().end = part.end;
      } else {
        out.push_back(part);
      }
    }
    return out;
  }

  RegularExpression pattern_;
  Behavior behavior_;
  bool invert_;
};

// The bytes themselves become the symbols of the merges, so that what is left of ByteLevel is its space and its cut.
class ByteLevelPreTokenizer final : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space) {
    if (use_regex)
      split_ =
          std::make_unique<SplitPreTokenizer>(RegularExpression("ByteLevel", gpt2_expression), Behavior::isolated, false);
  }
  void split(std::string_view text, bool first, const Sink& sink) const override {
    const bool add = add_prefix_space_ && !text.starts_with(' ');
    const std::string with_space = add ? " " + std::string(text) : std::string();
    const std::string_view piece = add ? std::string_view(with_space) : text;
    if (split_ != nullptr) {
      split_->split(piece, first, sink);
    } else {
      sink(piece, first);
    }
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<SplitPreTokenizer> split_;
};

class MetaspacePreTokenizer final : public PreTokenizer {
 public:
  enum class Prepend { always, first, never };
  MetaspacePreTokenizer(std::string mark, Prepend prepend, bool cut)
      : mark_(std::move(mark)), prepend_(prepend), cut_(cut) {}

  void split(std::string_view text, bool first, const Sink& sink) const override {
    std::string marked;
    for (const char c : text) {
      if (c == ' ') {
        marked += mark_;
      } else {
        marked += c;
      }
    }
    const bool prepends = prepend_ == Prepend::always || (prepend_ == Prepend::first && first);
    if (prepends && !marked.starts_with(mark_)) marked.insert(0, mark_);
    if (!cut_) return sink(marked, first);
    for (std::size_t begin = 0; begin < marked.size();) {
      const std::size_t end = std::min(marked.find(mark_, begin + 1), marked.size());
      sink(std::string_view(marked).substr(begin, end - begin), first && begin == 0);
      begin = end;
    }
  }

 private:
  std::string mark_;
  Prepend prepend_;
  bool cut_;
};

class PreTokenizerSequence final : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps) : steps_(std::move(steps)) {}
  void split(std::string_view text, bool first, const Sink& sink) const override { split_from(0, text, first, sink); }

 private:
  void split_from(std::size_t step, std::string_view text, bool first, const Sink& sink) const {
    if (step == steps_.size()) return sink(text, first);
    struct Rest {  // one pointer in the closure: std::function then needs no allocation
      const PreTokenizerSequence& self;
      std::size_t step;
      const Sink& sink;
    } const rest{*this, step + 1, sink};
    steps_[step]->split(text, first, [&rest](std::string_view piece, bool piece_first) {
      rest.self.split_from(rest.step, piece, piece_first, rest.sink);
    });
  }
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

std::unique_ptr<PreTokenizer> make_metaspace(const json& description, const std::string& where) {
  const std::string mark = description.contains("replacement") ? text_member(description, "replacement", where) : "▁";
  if (mark.empty()) throw Error(where, "\"replacement\" is empty");
  using Prepend = MetaspacePreTokenizer::Prepend;
  Prepend prepend = flag(description, "add_prefix_space", true) ? Prepend::always : Prepend::never;
  if (description.contains("prepend_scheme")) {
    const std::string scheme = text_member(description, "prepend_scheme", where);
    prepend = scheme == "first" ? Prepend::first : scheme == "never" ? Prepend::never : Prepend::always;
  }
  return std::make_unique<MetaspacePreTokenizer>(mark, prepend, flag(description, "split", true));
}

std::unique_ptr<PreTokenizer> split_by_expression(const char* where, const char* expression) {
  return std::make_unique<SplitPreTokenizer>(RegularExpression(where, expression), Behavior::isolated, false);
}

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const json& description, const std::string& where) {
  if (description.is_null()) return nullptr;
  const std::string type = text_member(description, "type", where);
  if (type == "NFC") return std::make_unique<NfcNormalizer>();
  if (type == "Prepend") return std::make_unique<PrependNormalizer>(text_member(description, "prepend", where));
  if (type == "Replace")
    return std::make_unique<ReplaceNormalizer>(pattern_of(description, where), text_member(description, "content", where));
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const json& step : member(description, "normalizers", where))
      if (auto made = make_normalizer(step, where)) steps.push_back(std::move(made));
    return std::make_unique<NormalizerSequence>(std::move(steps));
  }
  throw Error(where, "unknown type \"" + type + "\"", "understood are NFC, Prepend, Replace and Sequence");
}

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const json& description, const std::string& where) {
  if (description.is_null()) return nullptr;
  const std::string type = text_member(description, "type", where);
  if (type == "ByteLevel")
    return std::make_unique<ByteLevelPreTokenizer>(flag(description, "add_prefix_space", true),
                                                   flag(description, "use_regex", true));
  if (type == "Digits")
    return std::make_unique<SplitPreTokenizer>(
        RegularExpression(where, flag(description, "individual_digits", false) ? "\\p{N}" : "\\p{N}+"), Behavior::isolated,
        false);
  if (type == "Split")
    return std::make_unique<SplitPreTokenizer>(pattern_of(description, where),
                                               behavior_of(text_member(description, "behavior", where), where),
                                               flag(description, "invert", false));
  if (type == "Metaspace") return make_metaspace(description, where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    for (const json& step : member(description, "pretokenizers", where))
      if (auto made = make_pre_tokenizer(step, where)) steps.push_back(std::move(made));
    return std::make_unique<PreTokenizerSequence>(std::move(steps));
  }
  throw Error(where, "unknown type \"" + type + "\"", "understood are ByteLevel, Digits, Metaspace, Split and Sequence");
}

std::unique_ptr<PreTokenizer> gpt2_pre_tokenizer() { return split_by_expression("GPT-2 pre-tokenizer", gpt2_expression); }
std::unique_ptr<PreTokenizer> llama3_pre_tokenizer() {
  return split_by_expression("Llama 3 pre-tokenizer", llama3_expression);
}
std::unique_ptr<PreTokenizer> qwen2_pre_tokenizer() { return split_by_expression("Qwen2 pre-tokenizer", qwen2_expression); }
std::unique_ptr<Normalizer> nfc_normalizer() { return std::make_unique<NfcNormalizer>(); }

}  // namespace kvreplay
