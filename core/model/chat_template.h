// Turns of a conversation as the ids that a chat model was trained on.
//
//   ChatTemplate chat = ChatTemplate::detect("models/llama-3-8b-instruct", *tokenizer);
//   auto ids = chat.apply({{"user", "Where is the gold?"}}, *tokenizer);
//
// Special tokens are placed as ids; the text of a message is always text, whatever it contains. BOS is included where the
// family has one, so the result is the whole prompt.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/tokenizer.h"

namespace kvreplay {

enum class ChatFamily : std::uint8_t {
  none,     // a base model: no template
  llama2,   // <s>[INST] <<SYS>>\n...\n<</SYS>>\n\nuser [/INST] assistant </s>
  llama3,   // <|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|>
  mistral,  // [INST] user[/INST] assistant</s>, text before v2, control tokens from v2 on
  chatml,   // Qwen2: <|im_start|>user\n...<|im_end|>\n
  gemma,    // <start_of_turn>user\n...<end_of_turn>\n
};
std::string_view chat_family_name(ChatFamily family);  // "llama2", ..., "none"
ChatFamily parse_chat_family(std::string_view name);   // throws Error naming the families

struct ChatMessage {
  std::string role;  // "system" (first only), "user", "assistant"
  std::string content;
};

struct ChatTemplate {
  ChatFamily family = ChatFamily::none;
  // What the model's published template says when the first message is no system message; empty: nothing.
  std::string default_system;
  // Llama 3.1 and later put a line with the knowledge cutoff and one with a date before every system message; empty: not.
  std::string system_preamble;

  // From the tokens that the vocabulary has and from chat_template in tokenizer_config.json. family is none for a model
  // without a template.
  static ChatTemplate detect(const std::string& model_directory, const Tokenizer& tokenizer);

  // The ids of a conversation. add_generation_prompt: ends with what precedes an answer. Throws Error for an unknown role,
  // roles out of order, or a tokenizer without the family's tokens.
  std::vector<std::int32_t> apply(const std::vector<ChatMessage>& messages, const Tokenizer& tokenizer,
                                  bool add_generation_prompt = true) const;

  // What ends an answer: the family's end of turn and the tokenizer's eos ids, without repetition.
  std::vector<std::int32_t> stop_tokens(const Tokenizer& tokenizer) const;
};

}  // namespace kvreplay
