// What a tokenizer.json of Hugging Face's `tokenizers` says, as tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace edgetok_impl {

// A token that is found in a text before anything else is; special ones are found only by the template.
struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool special = false;
  bool normalized = false;  // found after the text was normalised
};

// Spaces at the ends of a token are no part of its place.
struct Trim {
  bool keep_first = false;  // but one at the beginning of the text is
};

// How a text becomes words: ▁ stands for a space, and for the beginning.
struct Words {
  enum class Prefix { never, first, every };  // of all texts, or of what is between added tokens

  bool replaced = false;  // every space became ▁
  Prefix prefix = Prefix::never;
  bool before_spaces = false;  // the prefix comes even where the text begins with a space
  bool split = false;          // no token holds a part of two words
  bool strip = false;          // a space at the beginning of an answer is the prefix
};

struct TokenizerFile {
  std::unordered_map<std::string, std::int64_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  bool ignore_merges = false;  // a piece of text that is a token stays whole
  std::vector<AddedToken> added;
  // BPE over characters, and over bytes of those that are no token: Llama 2, Gemma. Else it is over
  // bytes, written as printable characters: GPT-2, Llama 3, Qwen, SmolLM.
  std::optional<Words> words;
  bool nfc = false;                 // so a text is normalised, before it is split
  std::vector<std::string> splits;  // regular expressions, one after the other; each isolates its matches
  std::optional<Trim> trim;
};

// Throws Error(bundle) if it is malformed, Error(incompatible) if it asks for anything else.
TokenizerFile parse_tokenizer(const std::string& bytes);

// Characters that stand for bytes in such a vocabulary, UTF-8.
const std::vector<std::string>& byte_characters();

// The name of a byte's token where characters are no token: <0x0A>.
std::string byte_name(unsigned byte);

}  // namespace edgetok_impl
