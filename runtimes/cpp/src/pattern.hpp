// A regular expression of a tokenizer, by Oniguruma: the library that `tokenizers` has them run by.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace edgetok_impl {

struct Range {  // of bytes
  std::size_t begin = 0, end = 0;
};

// Throws Error(incompatible) if this library was built without.
void require_patterns();

class Pattern {
 public:
  // Throws Error(bundle) if it cannot be read.
  explicit Pattern(const std::string& expression);
  ~Pattern();
  Pattern(Pattern&& other) noexcept;
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  // Its matches and what lies between them, in turn; nothing that is empty. Throws Error(input) if a
  // match takes more steps than are allowed.
  std::vector<Range> isolate(std::string_view text) const;

 private:
  void* compiled_ = nullptr;
};

}  // namespace edgetok_impl
