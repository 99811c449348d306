#include "core/model/chat_template.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/model/tokenizer_files.h"

namespace kvreplay {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<ChatFamily, std::string_view>, 6> families = {{{ChatFamily::none, "none"},
                                                                              {ChatFamily::llama2, "llama2"},
                                                                              {ChatFamily::llama3, "llama3"},
                                                                              {ChatFamily::mistral, "mistral"},
                                                                              {ChatFamily::chatml, "chatml"},
                                                                              {ChatFamily::gemma, "gemma"}}};

// What Llama 3.1's template writes when it is given no date of its own.
constexpr const char* llama31_preamble = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

// What the templates' `trim` takes away: Python's str.strip().
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string trimmed(const std::string& content) {
  const std::string text = valid_utf8(content);
  std::size_t begin = text.size(), end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    if (!is_space(point.value)) {
      begin = std::min(begin, at);
      end = at + point.bytes;
    }
    at += point.bytes;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string();
}

// Tokens and the text between them. Neighbouring pieces of text are encoded as one.
class Prompt {
 public:
  Prompt(const Tokenizer& tokenizer, ChatFamily family) : tokenizer_(tokenizer), family_(family) {}

  Prompt& text(std::string_view piece) {
    pending_ += piece;
    return *this;
  }
  Prompt& token(std::string_view name) {
    const auto id = tokenizer_.token_id(name);
    if (!id)
      throw Error("chat template " + std::string(chat_family_name(family_)),
                  "the tokenizer has no token \"" + std::string(name) + "\"", "choose the family of this model");
    return token(*id);
  }
  Prompt& token(std::int32_t id) {
    flush();
    ids_.push_back(id);
    return *this;
  }
  Prompt& begin() {
    const auto bos = tokenizer_.bos();
    return bos ? token(*bos) : *this;
  }
  Prompt& end(std::string_view fallback) {
    return tokenizer_.eos().empty() ? token(fallback) : token(tokenizer_.eos().front());
  }
  std::vector<std::int32_t> finish() {
    flush();
    return std::move(ids_);
  }

 private:
  void flush() {
    if (pending_.empty()) return;
    const std::vector<std::int32_t> ids = tokenizer_.encode(pending_, false);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    pending_.clear();
  }

  const Tokenizer& tokenizer_;
  ChatFamily family_;
  std::string pending_;
  std::vector<std::int32_t> ids_;
};

void check_roles(const std::vector<ChatMessage>& messages, bool alternating) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string where = "message " + std::to_string(i + 1);
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant")
      throw Error(where, "unknown role \"" + role + "\"", "roles are system, user and assistant");
    if (role == "system" && i != 0) throw Error(where, "a system message can only be the first");
    if (role != "system" && alternating) {
      const std::size_t turn = messages[0].role == "system" ? i - 1 : i;
      if ((turn % 2 == 0) != (role == "user")) throw Error(where, "user and assistant must take turns, the user first");
    }
  }
}

// [INST] belongs to the user's text, and so does the system message.
void apply_llama2(Prompt& prompt, const std::string& system, const std::vector<ChatMessage>& turns) {
  const std::string before = system.empty() ? "" : "<<SYS>>\n" + system + "\n<</SYS>>\n\n";
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "user") {
      prompt.begin().text("[INST] " + trimmed((i == 0 ? before : "") + turns[i].content) + " [/INST]");
    } else {
      prompt.text(" " + trimmed(turns[i].content) + " ").end("</s>");
    }
  }
}

// Text marks in version 1; control tokens from version 2 on; a system prompt of its own from version 7 on.
void apply_mistral(Prompt& prompt, const Tokenizer& tokenizer, const std::string& system,
                   const std::vector<ChatMessage>& turns) {
  const auto control = [&](const char* name) {
    const auto id = tokenizer.token_id(name);
    return id && tokenizer.is_special(*id);
  };
  const bool has_control = control("[INST]"), has_system = control("[SYSTEM_PROMPT]");
  const bool ends_with_user = !turns.empty() && turns.back().role == "user";
  const std::size_t system_turn = has_control && ends_with_user ? turns.size() - 1 : 0;
  prompt.begin();
  if (has_system && !system.empty()) prompt.token("[SYSTEM_PROMPT]").text(system).token("[/SYSTEM_PROMPT]");
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const bool carries_system = !has_system && i == system_turn && !system.empty();
    const std::string content = (carries_system ? system + "\n\n" : "") + turns[i].content;
    if (turns[i].role != "user") {
      prompt.text(has_control ? content : " " + content).end("</s>");
    } else if (has_control) {
      prompt.token("[INST]").text(content).token("[/INST]");
    } else {
      prompt.text("[INST] " + content + " [/INST]");
    }
  }
}

void apply_llama3(Prompt& prompt, const std::string& preamble, const std::string& system,
                  const std::vector<ChatMessage>& turns, bool add_generation_prompt) {
  const auto header = [&](std::string_view role) {
    prompt.token("<|start_header_id|>").text(role).token("<|end_header_id|>").text("\n\n");
  };
  prompt.begin();
  if (!preamble.empty() || !system.empty()) {
    header("system");
    prompt.text(preamble + trimmed(system)).token("<|eot_id|>");
  }
  for (const ChatMessage& turn : turns) {
    header(turn.role);
    prompt.text(trimmed(turn.content)).token("<|eot_id|>");
  }
  if (add_generation_prompt) header("assistant");
}

void apply_chatml(Prompt& prompt, const std::string& system, const std::vector<ChatMessage>& turns,
                  bool add_generation_prompt) {
  const auto message = [&](const std::string& role, const std::string& content) {
    prompt.token("<|im_start|>").text(role + "\n" + content).token("<|im_end|>").text("\n");
  };
  if (!system.empty()) message("system", system);
  for (const ChatMessage& turn : turns) message(turn.role, turn.content);
  if (add_generation_prompt) prompt.token("<|im_start|>").text("assistant\n");
}

// There is no system role; its text goes before the first of the user's, as Gemma 3's template has it.
void apply_gemma(Prompt& prompt, const std::string& system, const std::vector<ChatMessage>& turns,
                 bool add_generation_prompt) {
  prompt.begin();
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const std::string before = i == 0 && !system.empty() ? system + "\n\n" : "";
    const std::string role = turns[i].role == "assistant" ? "model" : turns[i].role;
    prompt.token("<start_of_turn>").text(role + "\n" + before + trimmed(turns[i].content)).token("<end_of_turn>").text("\n");
  }
  if (add_generation_prompt) prompt.token("<start_of_turn>").text("model\n");
}

// The template that a model's files publish; empty when they have none.
std::string published_template(const std::string& model_directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path directory(model_directory);
  if (fs::is_regular_file(directory, error)) directory = directory.parent_path();
  if (const fs::path jinja = directory / "chat_template.jinja"; fs::exists(jinja, error))
    return read_small_file(jinja.string());
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    const json config = read_json_if_present((directory / name).string());
    if (!config.is_object() || !config.contains("chat_template")) continue;
    const json& found = config["chat_template"];
    if (found.is_string()) return found.get<std::string>();
    if (!found.is_array()) continue;
    for (const json& entry : found)
      if (entry.is_object() && entry.value("name", json()) == "default" && entry.contains("template") &&
          entry["template"].is_string())
        return entry["template"].get<std::string>();
  }
  return {};
}

ChatFamily family_of_template(const std::string& text) {
  const auto has = [&](std::string_view mark) { return text.find(mark) != std::string::npos; };
  if (has("<|start_header_id|>")) return ChatFamily::llama3;
  if (has("<|im_start|>")) return ChatFamily::chatml;
  if (has("<start_of_turn>")) return ChatFamily::gemma;
  if (has("<<SYS>>")) return ChatFamily::llama2;
  if (has("[INST]")) return ChatFamily::mistral;
  return ChatFamily::none;
}

ChatFamily family_of_tokens(const Tokenizer& tokenizer) {
  const auto has = [&](std::string_view name) {
    const auto id = tokenizer.token_id(name);
    return id && tokenizer.is_special(*id);
  };
  if (has("<|start_header_id|>")) return ChatFamily::llama3;
  if (has("<|im_start|>")) return ChatFamily::chatml;
  if (has("<start_of_turn>")) return ChatFamily::gemma;
  if (has("[INST]")) return ChatFamily::mistral;
  return ChatFamily::none;
}

// The text between "<|im_start|>system\n" and "<|im_end|>" where the template writes both in one string.
std::string default_system_of(const std::string& text) {
  static constexpr std::string_view begin_mark = "<|im_start|>system", end_mark = "<|im_end|>";
  for (std::size_t at = text.find(begin_mark); at != std::string::npos; at = text.find(begin_mark, at + 1)) {
    std::string_view rest = std::string_view(text).substr(at + begin_mark.size());
    if (rest.starts_with("\\n")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with('\n')) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    const std::string_view content = rest.substr(0, rest.find(end_mark));
    if (content.size() < rest.size() && !content.empty() && content.find_first_of("'\"{}") == std::string_view::npos)
      return std::string(content);
  }
  return {};
}

}  // namespace

std::string_view chat_family_name(ChatFamily family) {
  for (const auto& [value, name] : families)
    if (value == family) return name;
  return "none";
}

ChatFamily parse_chat_family(std::string_view text) {
  std::vector<std::string> names;
  for (const auto& [value, name] : families) {
    if (name == text) return value;
    names.emplace_back(name);
  }
  throw Error("chat template", "unknown family \"" + std::string(text) + "\"", "families are " + join(names, ", ", " and "));
}

ChatTemplate ChatTemplate::detect(const std::string& model_directory, const Tokenizer& tokenizer) {
  const std::string text = published_template(model_directory);
  ChatTemplate found;
  found.family = text.empty() ? family_of_tokens(tokenizer) : family_of_template(text);
  if (found.family == ChatFamily::chatml) found.default_system = default_system_of(text);
  if (found.family == ChatFamily::llama3 && text.find("Cutting Knowledge Date: December 2023") != std::string::npos)
    found.system_preamble = llama31_preamble;
  return found;
}

std::vector<std::int32_t> ChatTemplate::apply(const std::vector<ChatMessage>& messages, const Tokenizer& tokenizer,
                                              bool add_generation_prompt) const {
  if (family == ChatFamily::none)
    throw Error("chat template", "this model has none that is understood", "name its family, or give the prompt as it is");
  check_roles(messages, family != ChatFamily::llama3 && family != ChatFamily::chatml);
  const bool has_system = !messages.empty() && messages[0].role == "system";
  const std::string system = has_system ? messages[0].content : default_system;
  const std::vector<ChatMessage> turns(messages.begin() + (has_system ? 1 : 0), messages.end());

  Prompt prompt(tokenizer, family);
  switch (family) {
    case ChatFamily::none: break;
    case ChatFamily::llama2: apply_llama2(prompt, system, turns); break;
    case ChatFamily::llama3: apply_llama3(prompt, system_preamble, system, turns, add_generation_prompt); break;
    case ChatFamily::mistral: apply_mistral(prompt, tokenizer, system, turns); break;
    case ChatFamily::chatml: apply_chatml(prompt, system, turns, add_generation_prompt); break;
    case ChatFamily::gemma: apply_gemma(prompt, system, turns, add_generation_prompt); break;
  }
  return prompt.finish();
}

std::vector<std::int32_t> ChatTemplate::stop_tokens(const Tokenizer& tokenizer) const {
  std::vector<std::int32_t> ids = tokenizer.eos();
  std::vector<std::string_view> names;
  if (family == ChatFamily::llama3) names = {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"};
  if (family == ChatFamily::chatml) names = {"<|im_end|>", "<|endoftext|>"};
  if (family == ChatFamily::gemma) names = {"<end_of_turn>", "<eos>"};
  if (family == ChatFamily::llama2 || family == ChatFamily::mistral) names = {"</s>"};
  for (const std::string_view name : names)
    if (const auto id = tokenizer.token_id(name); id && std::find(ids.begin(), ids.end(), *id) == ids.end())
      ids.push_back(*id);
  return ids;
}

}  // namespace kvreplay
