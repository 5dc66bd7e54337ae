#include "normal_form.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>

#include "unicode14.hpp"

namespace edgetok_impl {

namespace {

const utf8proc_uint8_t* begin_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

// `tokenizers` does not put U+11935 and U+11930 together, which came with Unicode 13.
template <std::size_t Count>
bool holds(const Assigned (&ranges)[Count], std::uint32_t point) {
  const auto* next = std::upper_bound(std::begin(ranges), std::end(ranges), point,
                                      [](std::uint32_t p, const Assigned& range) { return p < range.first; });
  return next != std::begin(ranges) && point <= (next - 1)->last;
}

bool is_disputed(std::uint32_t point) {
  if (point < 0x300) return false;  // all of them are assigned since long ago
  if (point == 0x11930 || point == 0x11935 || point == 0x11938) return true;
  return !holds(kUnicode14, point);
}

struct Character {
  std::uint32_t point = 0;
  std::size_t bytes = 1;
};

Character read_character(std::string_view text, std::size_t at) {
  utf8proc_int32_t point = 0;
  const auto left = static_cast<utf8proc_ssize_t>(text.size() - at);
  const auto bytes = utf8proc_iterate(begin_of(text) + at, left, &point);
  if (bytes <= 0) throw std::invalid_argument("this is no UTF-8");
  return {static_cast<std::uint32_t>(point), static_cast<std::size_t>(bytes)};
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
    const Character found = read_character(text, at);
    if (is_disputed(found.point)) return at;
    at += found.bytes;
  }
  return std::string_view::npos;
}

std::size_t find_disputed_marks(std::string_view text) {
  bool mark = false, late = false;  // of the character before
  for (std::size_t at = 0; at < text.size();) {
    const Character found = read_character(text, at);
    const bool is_late = holds(kLateMarks, found.point);
    const bool is_mark = utf8proc_get_property(static_cast<utf8proc_int32_t>(found.point))->combining_class != 0;
    if ((is_late && mark) || (late && is_mark)) return at;
    mark = is_mark, late = is_late;
    at += found.bytes;
  }
  return std::string_view::npos;
}

}  // namespace edgetok_impl
