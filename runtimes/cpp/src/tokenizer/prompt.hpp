// From the user's text to token ids around the image, and from generated ids back to text.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.hpp"
#include "tokens.hpp"

namespace edgetok_impl {

// A piece of the rendered chat template.
struct Segment {
  enum class Kind { ids, text, image, user, system };
  Kind kind = Kind::ids;
  Ids ids;
  std::string text;
  bool strips_left = false, strips_right = false;  // of white space: a given text's own ends, or a token's neighbours'
};

// processor/prompt.json.
struct PromptPlan {
  std::vector<Segment> segments, turn;  // `turn` is empty where later turns are not simply put behind
  std::vector<Segment> system;          // in place of `segments` with a system message; empty where there can be none
  bool starts_with_text = true;
  std::set<std::int64_t> forbidden;     // control tokens that no text may give
};

// Throws Error(bundle) if it is malformed.
PromptPlan parse_prompt_plan(const std::string& bytes);

// Renders the plan around the user's text and, if it is not null, a system message. Literal text and user text that touch are encoded together;
// special tokens come from the plan only. Throws Error(input) for a text that is too long, no UTF-8,
// or gives a control token, and Error(usage) where the chat template takes no system message.
Prompt encode_prompt(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text,
                     const std::string* system = nullptr);

// What stands between an answer without its stop token and the next answer. Throws Error(usage) where
// the chat template has no later turns.
Ids encode_turn(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text);

// Turns ids into text piece by piece, never cutting a character in two.
class Detokenizer {
 public:
  explicit Detokenizer(const TextTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::string push(std::int64_t id);  // what one more id completes; may be empty
  std::string flush();                // what is left; a character that never became whole is U+FFFD

 private:
  std::string pending() const;

  const TextTokenizer& tokenizer_;
  Ids window_;  // of the last piece and those not yet shown
  std::size_t shown_ = 0;
};

}  // namespace edgetok_impl
