// Unicode's normal form C, and which characters are too new to be split alike by all.
#pragma once

#include <string>
#include <string_view>

namespace edgetok_impl {

// Of valid UTF-8.
std::string to_nfc(std::string_view text);

// Offset of the first character of valid UTF-8 that this library's tables and those of `tokenizers`
// may hold different things about, or npos: it is not of Unicode 14.
std::size_t find_disputed(std::string_view text);

// The same of marks beside each other, the order of which to_nfc and `tokenizers` may not agree about.
std::size_t find_disputed_marks(std::string_view text);

}  // namespace edgetok_impl
