#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "generated.hpp"
#include "images/picture.hpp"

namespace edgetok_impl {

namespace {

Size resized_size(const Picture& picture, const ImagePlan& plan) {
  if (plan.resize_px) return *plan.resize_px;
  if (!plan.resize_shortest_px) return picture.size();
  const std::int64_t shorter = *plan.resize_shortest_px;
  const double longest = static_cast<double>(shorter * std::max(picture.height, picture.width)) /
                         static_cast<double>(std::min(picture.height, picture.width));
  const auto longer = static_cast<std::int64_t>(longest);  // truncated, as Hugging Face does
  const Size size = picture.width <= picture.height ? Size{longer, shorter} : Size{shorter, longer};
  require_size(size.height, size.width, "the resized image");
  return size;
}

// The longer side of `longest_px`, the other truncated and made even.
Size longest_size(const Picture& picture, std::int64_t longest_px) {
  const bool wide = picture.width >= picture.height;
  const double ratio = static_cast<double>(picture.width) / static_cast<double>(picture.height);
  const auto longest = static_cast<double>(longest_px);
  auto shorter = static_cast<std::int64_t>(wide ? longest / ratio : longest * ratio);
  shorter = std::max<std::int64_t>(shorter + shorter % 2, 1);
  const Size size = wide ? Size{shorter, longest_px} : Size{longest_px, shorter};
  require_size(size.height, size.width, "the resized image");
  return size;
}

// The largest size of the picture's aspect ratio in a canvas; rounded up.
Size padded_size(const Picture& picture, Size canvas) {
  const auto height = static_cast<double>(picture.height), width = static_cast<double>(picture.width);
  const double across = static_cast<double>(canvas.width) / width;
  const double down = static_cast<double>(canvas.height) / height;
  if (across < down) {
    return {std::min(static_cast<std::int64_t>(std::ceil(height * across)), canvas.height), canvas.width};
  }
  return {canvas.height, std::min(static_cast<std::int64_t>(std::ceil(width * down)), canvas.width)};
}

std::int64_t floor_half(std::int64_t value) { return value >= 0 ? value / 2 : -((1 - value) / 2); }

// The picture in the middle of a canvas, rounded towards the upper left.
Picture pad(const Picture& picture, Size canvas, const std::array<std::uint8_t, 3>& fill) {
  Picture out(canvas.width, canvas.height);
  for (std::size_t i = 0; i < out.rgb.size(); ++i) out.rgb[i] = fill[i % 3];
  const auto left = floor_half(canvas.width - picture.width), top = floor_half(canvas.height - picture.height);
  for (std::int64_t y = 0; y < picture.height; ++y) {
    std::copy_n(picture.at(y, 0), 3 * picture.width, out.at(top + y, left));
  }
  return out;
}

// Where a window of `wanted` begins in `have`; negative where it is wider.
std::int64_t crop_start(std::int64_t have, std::int64_t wanted) {
  return have >= wanted ? (have - wanted) / 2 : -((wanted - have + 1) / 2);
}

// Cut out of the middle; what lies outside the picture is black.
Picture crop(const Picture& picture, Size size) {
  Picture out(size.width, size.height);
  const auto top = crop_start(picture.height, size.height), left = crop_start(picture.width, size.width);
  for (std::int64_t y = 0; y < size.height; ++y) {
    for (std::int64_t x = 0; x < size.width; ++x) {
      const auto from_y = y + top, from_x = x + left;
      const bool inside = from_y >= 0 && from_y < picture.height && from_x >= 0 && from_x < picture.width;
      if (inside) std::copy_n(picture.at(from_y, from_x), 3, out.at(y, x));
    }
  }
  return out;
}

// A pixel has 256 values, so each channel is a table, in the order and precision of Hugging Face.
void normalise(const Picture& picture, const ImagePlan& plan, std::vector<float>& out) {
  const auto count = static_cast<std::size_t>(picture.width * picture.height);
  for (std::size_t c = 0; c < 3; ++c) {
    float table[256];
    for (int i = 0; i < 256; ++i) {
      const auto scaled = static_cast<float>(i * plan.rescale);
      table[i] = (scaled - static_cast<float>(plan.mean[c])) / static_cast<float>(plan.std[c]);
    }
    for (std::size_t i = 0; i < count; ++i) out.push_back(table[picture.rgb[3 * i + c]]);
  }
}

Picture cut(const Picture& whole, Size tile, std::int64_t row, std::int64_t column) {
  Picture out(tile.width, tile.height);
  for (std::int64_t y = 0; y < tile.height; ++y) {
    std::copy_n(whole.at(row * tile.height + y, column * tile.width), 3 * tile.width, out.at(y, 0));
  }
  return out;
}

// The thumbnail, then the tiles row by row.
std::vector<float> cut_tiles(const Picture& picture, const ImagePlan& plan) {
  const Tiles tiles = *plan.tiles;
  const Size tile = *plan.resize_px, canvas{tiles.rows * tile.height, tiles.columns * tile.width};
  const Picture whole = tiles.pad ? pad(resize(picture, padded_size(picture, canvas), plan.resample), canvas, {})
                                  : resize(picture, canvas, plan.resample);
  std::vector<float> out;
  normalise(resize(tiles.pad ? picture : whole, tile, plan.resample), plan, out);
  for (std::int64_t row = 0; row < tiles.rows; ++row) {
    for (std::int64_t column = 0; column < tiles.columns; ++column) {
      normalise(cut(whole, tile, row, column), plan, out);
    }
  }
  return out;
}

// What comes before the resize: a square, a longest side.
Picture fit_outside(Picture picture, const ImagePlan& plan) {
  if (plan.square_rgb) {
    const auto side = std::max(picture.height, picture.width);
    require_size(side, side, "the image, made square,");
    picture = pad(picture, {side, side}, *plan.square_rgb);
  }
  if (!plan.resize_longest_px) return picture;
  return resize(picture, longest_size(picture, *plan.resize_longest_px), plan.resample);
}

void convert_row(edgetok_format format, const std::uint8_t* in, std::uint8_t* out, std::int64_t width) {
  for (std::int64_t x = 0; x < width; ++x, out += 3) {
    if (format == EDGETOK_RGBA) {
      for (int c = 0; c < 3; ++c) out[c] = over_white(in[c], in[3]);
      in += 4;
    } else {
      for (int c = 0; c < 3; ++c) out[c] = in[format == EDGETOK_BGR ? 2 - c : c];
      in += 3;
    }
  }
}

std::uint8_t clamp_byte(int value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 255)); }

// BT.601 with luma of 16..235, in whole numbers of 8 bits behind the point.
void convert_nv12_row(const std::uint8_t* luma, const std::uint8_t* chroma, std::uint8_t* out, std::int64_t width) {
  for (std::int64_t x = 0; x < width; ++x, out += 3) {
    const int y = 298 * (luma[x] - 16), u = chroma[x / 2 * 2] - 128, v = chroma[x / 2 * 2 + 1] - 128;
    out[0] = clamp_byte((y + 409 * v + 128) >> 8);
    out[1] = clamp_byte((y - 100 * u - 208 * v + 128) >> 8);
    out[2] = clamp_byte((y + 516 * u + 128) >> 8);
  }
}

void require_stride(std::int64_t stride, std::int64_t least) {
  if (stride >= least) return;
  throw input_error("a stride of " + std::to_string(stride) + " bytes is less than a row of " +
                    std::to_string(least));
}

}  // namespace

void require_size(std::int64_t height, std::int64_t width, const char* what) {
  const std::string size = std::string(what) + " is " + std::to_string(width) + "x" + std::to_string(height);
  if (std::min(height, width) < 1) throw input_error(size + " pixels; it has no pixels to look at");
  if (std::max(height, width) > limits::IMAGE_SIDE_PIXELS) {
    throw input_error(size + " pixels; a side may have at most " +
                      std::to_string(limits::IMAGE_SIDE_PIXELS) + ", so crop it first");
  }
  if (height * width > limits::IMAGE_PIXELS) {
    throw input_error(size + " = " + std::to_string(height * width) + " pixels; at most " +
                      std::to_string(limits::IMAGE_PIXELS) + " are decoded, so scale it down first");
  }
}

std::uint8_t over_white(std::uint8_t value, std::uint8_t alpha) {
  const int scaled = (value * alpha + 255 * (255 - alpha)) * 128 + (128 << 7);
  return static_cast<std::uint8_t>((((scaled >> 8) + scaled) >> 8) >> 7);
}

Picture from_pixels(const edgetok_pixels& p) {
  require_size(p.height, p.width, "the image");
  if (p.data == nullptr) throw usage_error("pixels.data is NULL; give the pixels");
  if (p.format < EDGETOK_RGB || p.format > EDGETOK_NV12) {
    throw usage_error("format " + std::to_string(p.format) + " is unknown; use one of edgetok_format");
  }
  const bool planar = p.format == EDGETOK_NV12;
  const std::int64_t row = p.width * (planar ? 1 : p.format == EDGETOK_RGBA ? 4 : 3);
  const std::int64_t stride = p.stride == 0 ? row : p.stride;
  require_stride(stride, row);
  Picture out(p.width, p.height);
  if (!planar) {
    for (std::int64_t y = 0; y < p.height; ++y) convert_row(p.format, p.data + y * stride, out.at(y, 0), p.width);
    return out;
  }
  const std::int64_t uv_stride = p.uv_stride == 0 ? stride : p.uv_stride;
  require_stride(uv_stride, (p.width + 1) / 2 * 2);
  const std::uint8_t* uv = p.uv == nullptr ? p.data + p.height * stride : p.uv;
  for (std::int64_t y = 0; y < p.height; ++y) {
    convert_nv12_row(p.data + y * stride, uv + y / 2 * uv_stride, out.at(y, 0), p.width);
  }
  return out;
}

Picture fit(Picture picture, const ImagePlan& plan) {
  picture = fit_outside(std::move(picture), plan);
  picture = resize(picture, resized_size(picture, plan), plan.resample);
  return plan.crop_px ? crop(picture, *plan.crop_px) : picture;
}

std::vector<float> normalise(const Picture& picture, const ImagePlan& plan) {
  std::vector<float> out;
  out.reserve(picture.rgb.size());
  normalise(picture, plan, out);
  return out;
}

std::vector<float> preprocess(Picture picture, const ImagePlan& plan) {
  if (plan.tiles) return cut_tiles(fit_outside(std::move(picture), plan), plan);
  return normalise(fit(std::move(picture), plan), plan);
}

}  // namespace edgetok_impl
