// A picture in memory, and what can be done to it before the tower sees it.
#pragma once

#include <cstdint>
#include <vector>

#include "edgetok/edgetok.h"
#include "images/processor.hpp"

namespace edgetok_impl {

struct Picture {  // RGB, rows touch
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;

  Picture(std::int64_t width, std::int64_t height)
      : width(width), height(height), rgb(static_cast<std::size_t>(width * height * 3)) {}
  Size size() const { return {height, width}; }
  std::uint8_t* at(std::int64_t y, std::int64_t x) { return rgb.data() + 3 * (y * width + x); }
  const std::uint8_t* at(std::int64_t y, std::int64_t x) const { return rgb.data() + 3 * (y * width + x); }
};

// As Pillow's Image.resize by the filter of this name: each output pixel is a weighted sum, 8-bit between the two passes.
Picture resize(const Picture& picture, Size size, const std::string& name);

// JPEG, PNG or WEBP, upright, RGB; throws Error(input).
Picture decode_image(const std::uint8_t* data, std::size_t bytes);

// Of which WEBP is refused where the library was built without libwebp.
bool is_webp(const std::uint8_t* data, std::size_t bytes);
Picture decode_webp(const std::uint8_t* data, std::size_t bytes);

// Throws Error(input) for a layout that cannot be read.
Picture from_pixels(const edgetok_pixels& pixels);

// A channel in front of white.
std::uint8_t over_white(std::uint8_t value, std::uint8_t alpha);

// Throws Error(input) for a picture without pixels or with too many.
void require_size(std::int64_t height, std::int64_t width, const char* what);

// Squared, resized and cropped as a plan without tiles says.
Picture fit(Picture picture, const ImagePlan& plan);

// float [3, height, width] of a picture that was fitted.
std::vector<float> normalise(const Picture& picture, const ImagePlan& plan);

// float [parts, 3, height, width], ready for the tower.
std::vector<float> preprocess(Picture picture, const ImagePlan& plan);

}  // namespace edgetok_impl
