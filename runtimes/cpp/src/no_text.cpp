// In place of pattern.cpp and normal_form.cpp where CMake did not find Oniguruma and utf8proc.
#include "error.hpp"
#include "normal_form.hpp"
#include "pattern.hpp"

namespace edgetok_impl {

void require_patterns() {
  throw incompatible("this library was built without Oniguruma and utf8proc, so it has no text; give token ids");
}

Pattern::Pattern(const std::string&) { require_patterns(); }
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
std::vector<Range> Pattern::isolate(std::string_view) const { return {}; }
std::string to_nfc(std::string_view text) { return std::string(text); }
std::size_t find_disputed(std::string_view) { return 0; }
std::size_t find_disputed_marks(std::string_view) { return 0; }

}  // namespace edgetok_impl
