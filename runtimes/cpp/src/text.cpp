#include "text.hpp"

#include <charconv>
#include <cstdint>
#include <cstdio>

namespace edgetok_impl {

namespace {

struct Sequence {
  std::size_t length;  // 0: no character begins here
  std::uint32_t point;
};

// After table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above 10FFFF.
Sequence read_character(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return {1, lead};
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || at + length > text.size()) return {0, 0};
  std::uint32_t point = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {0, 0};
    point = point << 6 | (byte(at + i) & 0x3Fu);
  }
  const std::uint32_t least = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80;
  const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
  return point < least || point > 0x10FFFF || surrogate ? Sequence{0, 0} : Sequence{length, point};
}

// Bytes at a place that is no character, but could have been the beginning of one; at least 1.
std::size_t count_broken(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || at + 1 == text.size()) return 1;
  const unsigned char least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(at + 1) < least || byte(at + 1) > most) return 1;
  std::size_t end = at + 2;
  while (end < text.size() && end < at + length && (byte(end) & 0xC0) == 0x80) ++end;
  return end - at;
}

std::string escape(unsigned value) {
  char out[8];
  std::snprintf(out, sizeof out, "\\x%02x", value);
  return out;
}

// Everything but letters of any script would have to be looked up, so only ASCII passes.
bool is_plain(std::uint32_t point) { return point >= 0x20 && point < 0x7F; }

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Sequence found = read_character(text, at);
    if (found.length == 0) return at;
    at += found.length;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = read_character(text, at).length;
    out += length == 0 ? "\xef\xbf\xbd" : text.substr(at, length);
    at += length == 0 ? count_broken(text, at) : length;
  }
  return out;
}

std::size_t character_bytes(std::string_view text, std::size_t at) {
  std::size_t end = at + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return end - at;
}

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

std::string shorten(std::string_view text, std::size_t characters) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += is_plain(byte) ? std::string(1, c) : escape(byte);
    if (out.size() > characters) return out.substr(0, characters - 1) + "…";
  }
  return out;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const auto& part : parts) {
    if (!out.empty()) out += separator;
    out += part;
  }
  return out;
}

std::string format_number(double value, int digits) {
  char out[64];
  const auto end = std::to_chars(out, out + sizeof out, value, std::chars_format::general, digits);
  return {out, end.ptr};
}

}  // namespace edgetok_impl
