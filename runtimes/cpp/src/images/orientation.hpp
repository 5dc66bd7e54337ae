// Which way up a picture's file says that it is, and what all decoders say of damaged ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "error.hpp"
#include "images/picture.hpp"

namespace edgetok_impl {

Error damaged(const char* reason);

// Tag 274 in the first directory of an EXIF block, itself a TIFF file.
class Exif {
 public:
  Exif(const std::uint8_t* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  bool is_tiff() const;
  int orientation() const { return find_orientation().value_or(1); }
  std::optional<int> find_orientation() const;

 private:
  std::size_t read(std::size_t at, std::size_t width, bool little) const;

  const std::uint8_t* data_;
  std::size_t bytes_;
};

// One of eight: which corner of the stored picture comes first, and whether rows are columns.
Picture turn_upright(const Picture& in, int orientation);

}  // namespace edgetok_impl
