// Text for messages: made printable, short, and lists as people read them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace edgetok_impl {

// Text from a bundle, printable ASCII or whole UTF-8 characters above it, and short.
std::string shorten(std::string_view text, std::size_t characters = 80);

// Offset of the first byte that is no UTF-8, or npos.
std::size_t find_invalid_utf8(std::string_view text);

// With U+FFFD for each longest beginning of a character that is none, as the Unicode standard advises.
std::string replace_invalid_utf8(std::string_view text);

// Bytes of the character that begins at a place of valid UTF-8.
std::size_t character_bytes(std::string_view text, std::size_t at);

// Code points of valid UTF-8.
std::size_t count_characters(std::string_view text);

std::string join(const std::vector<std::string>& parts, std::string_view separator);

// As printf's %.<digits>g, whatever the locale; up to 17 digits.
std::string format_number(double value, int digits);

template <class T>
std::string format_list(const std::vector<T>& values) {
  std::string out = "[";
  for (const auto& value : values) {
    if (out.size() > 1) out += ", ";
    if (out.size() > 300) return out + "…";
    out += std::to_string(value);
  }
  return out + "]";
}

}  // namespace edgetok_impl
