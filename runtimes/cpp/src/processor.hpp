// How an image becomes pixels, as processor/image.json says.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgetok_impl {

struct Size {  // in pixels
  std::int64_t height = 0, width = 0;
  bool operator==(const Size& o) const { return height == o.height && width == o.width; }
};

struct Tiles {
  std::int64_t rows = 0, columns = 0;
  bool pad = false;
};

// Resize, crop, rescale and normalise, in this order; see docs/bundle-format.md.
struct ImagePlan {
  std::optional<std::int64_t> resize_shortest_px, resize_longest_px;
  std::optional<Size> resize_px, crop_px;
  std::string resample;
  double rescale = 1;
  std::array<double, 3> mean{}, std{};
  std::optional<Tiles> tiles;
  std::optional<std::array<std::uint8_t, 3>> square_rgb;
};

// Throws Error(bundle) if it is malformed or asks for what no image can be put through.
ImagePlan parse_image_plan(const std::string& bytes);

}  // namespace edgetok_impl
