#include "normal_form.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <new>

#include "unicode14.hpp"

namespace edgetok_impl {

namespace {

const utf8proc_uint8_t* begin_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

// `tokenizers` does not put U+11935 and U+11930 together, which came with Unicode 13.
bool is_disputed(std::uint32_t point) {
  if (point < 0x300) return false;  // all of them are assigned since long ago
  if (point == 0x11930 || point == 0x11935 || point == 0x11938) return true;
  const auto* next = std::upper_bound(std::begin(kUnicode14), std::end(kUnicode14), point,
                                      [](std::uint32_t p, const Assigned& range) { return p < range.first; });
  return next == std::begin(kUnicode14) || (next - 1)->last < point;
}

}  // namespace

std::string to_nfc(std::string_view text) {
  if (text.empty()) return {};
  utf8proc_uint8_t* made = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const auto bytes = utf8proc_map(begin_of(text), static_cast<utf8proc_ssize_t>(text.size()), &made, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(made, std::free);
  if (bytes < 0) throw std::bad_alloc();
  return std::string(reinterpret_cast<const char*>(made), static_cast<std::size_t>(bytes));
}

std::size_t find_disputed(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = 0;
    const auto left = static_cast<utf8proc_ssize_t>(text.size() - at);
    const auto bytes = utf8proc_iterate(begin_of(text) + at, left, &point);
    if (bytes <= 0 || is_disputed(static_cast<std::uint32_t>(point))) return at;
    at += static_cast<std::size_t>(bytes);
  }
  return std::string_view::npos;
}

}  // namespace edgetok_impl
