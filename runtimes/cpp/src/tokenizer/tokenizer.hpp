// From text to token ids and back, as Hugging Face's `tokenizers` goes with `encode_special_tokens`:
// special tokens in a text are ordinary characters.
#pragma once

#include <array>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "tokenizer/merger.hpp"
#include "tokenizer/pattern.hpp"

namespace edgetok_impl {

// Ids of a text, with the bytes of the normalised text that each one stands for.
struct Tokens {
  Ids ids;
  std::vector<Range> spans;
  Range marked;  // where the marked bytes of the text are in the normalised one
};

// What stands before a text; some tokenizers put a space before the first word, or before each that follows a token.
enum class Before { nothing, token, words };

class TextTokenizer {
 public:
  // Throws as parse_tokenizer and Merger do.
  TextTokenizer(const std::string& tokenizer_json, const std::string& library);

  // `marked`: bytes of the text, between whole characters.
  // Throws Error(input) for a text that would be encoded otherwise than by `tokenizers`.
  Tokens encode(const std::string& text, Before before, Range marked) const;

  // Special tokens and unknown ids are left out; bytes that are no UTF-8 become U+FFFD.
  std::string decode(const Ids& ids) const;

 private:
  struct Fragment {  // of a text: an added token, or what is to be split
    std::string text;
    std::size_t begin = 0;
    std::int64_t id = -1;
  };

  std::vector<Fragment> find_added(const std::string& text) const;
  std::string normalise(const std::string& text, bool prefix) const;
  Range place(const Fragment& fragment, const std::string& normalised, bool prefix, Range marked) const;
  std::vector<Range> split(const std::string& text) const;
  std::vector<Range> split_words(const std::string& text) const;
  Ids begin_with(std::string_view piece) const;
  std::size_t count_bytes(std::int64_t id) const;
  void add_pieces(const std::string& text, std::size_t base, Tokens& out) const;
  Range trim(std::int64_t id, Range span, bool begins) const;
  std::string decode_words(const std::vector<const std::string*>& names) const;

  TokenizerFile file_;
  Merger merger_;
  std::vector<Pattern> patterns_;
  std::unordered_map<std::int64_t, std::string> names_;
  std::unordered_map<std::int64_t, std::string> added_names_;
  std::unordered_set<std::string> special_;
  std::unordered_map<std::string, unsigned> bytes_;  // what stands for one
  std::array<std::int64_t, 256> byte_ids_{};
  std::unordered_set<std::uint64_t> joined_;         // two characters that some token holds side by side
};

}  // namespace edgetok_impl
