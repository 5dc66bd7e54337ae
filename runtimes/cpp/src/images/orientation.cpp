#include "images/orientation.hpp"

#include <cstring>

namespace edgetok_impl {

Error damaged(const char* reason) {
  return input_error(std::string("the image is damaged (") + reason +
                     "); its header is sound but its pixels cannot be decoded, so copy or export it again");
}

namespace {

// Bytes of a number by its type in TIFF files; 0 of all that is no whole number.
std::size_t width_of(std::size_t type) {
  switch (type) {
    case 3: case 8: return 2;           // SHORT, SSHORT
    case 4: case 9: case 13: return 4;  // LONG, SLONG, IFD
    case 6: return 1;                   // SBYTE
    default: return 0;
  }
}

}  // namespace

// As Pillow tells; not the TIFF of large files, whose directory has another layout.
bool Exif::is_tiff() const {
  if (bytes_ < 8) return false;
  for (const char* start : {"II*\0", "MM\0*", "II\0*", "MM*\0"}) {
    if (std::memcmp(data_, start, 4) == 0) return true;
  }
  return false;
}

std::optional<int> Exif::find_orientation() const {
  if (!is_tiff()) return std::nullopt;
  const bool little = data_[0] == 'I';
  const auto start = read(4, 4, little);
  const auto entries = read(start, 2, little);
  std::optional<int> found;  // the last one counts, as in Pillow
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t at = start + 2 + 12 * i;
    if (at + 12 > bytes_) break;
    if (read(at, 2, little) != 274) continue;
    const std::size_t width = width_of(read(at + 2, 2, little)), count = read(at + 4, 4, little);
    const std::size_t place = width * count <= 4 ? at + 8 : read(at + 8, 4, little);
    if (count == 0 || place > bytes_ || bytes_ - place < width * count) continue;
    const std::size_t value = width == 0 ? 1 : read(place, width, little);  // of a list, the first
    found = value <= 8 ? static_cast<int>(value) : 1;
  }
  return found;
}

std::size_t Exif::read(std::size_t at, std::size_t width, bool little) const {
  if (at > bytes_ || bytes_ - at < width) return 0;
  std::size_t value = 0;
  for (std::size_t i = 0; i < width; ++i) value = value << 8 | data_[at + (little ? width - 1 - i : i)];
  return value;
}

Picture turn_upright(const Picture& in, int orientation) {
  if (orientation < 2 || orientation > 8) return in;
  const bool turned = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Picture out(turned ? in.height : in.width, turned ? in.width : in.height);
  for (std::int64_t y = 0; y < out.height; ++y) {
    for (std::int64_t x = 0; x < out.width; ++x) {
      const auto column = turned ? y : x, row = turned ? x : y;
      const auto from_x = flip_x ? in.width - 1 - column : column;
      const auto from_y = flip_y ? in.height - 1 - row : row;
      std::memcpy(out.at(y, x), in.at(from_y, from_x), 3);
    }
  }
  return out;
}

}  // namespace edgetok_impl
