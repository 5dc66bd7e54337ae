// Resampling in two passes with a filter as wide as the picture shrinks, in whole numbers: weights
// of 22 bits behind the point, sums rounded to 8 bits after each pass. Pillow documents the filters
// and their support; the arithmetic follows from its results, to which tests compare every bit. Since
// Pillow 13 the rows are added up first where the height shrinks by over twice what the width does;
// an older Pillow differs there in the last bits.
#include <algorithm>
#include <cmath>

#include "images/picture.hpp"

namespace edgetok_impl {

namespace {

constexpr int kFraction = 22;  // bits: 32 less 8 of a pixel less 2 for weights outside 0..1
constexpr double kPi = 3.14159265358979323846;

struct Filter {
  double (*weight)(double);
  double support;  // where it ends, in pixels of the larger of the two grids
};

double triangle(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Keys' cubic convolution with a = -0.5.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= kPi;
  return std::sin(x) / x;
}

double lanczos(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double hamming(double x) {
  x = std::abs(x);
  return x < 1.0 ? sinc(x) * (0.54 + 0.46 * std::cos(x * kPi)) : 0.0;
}

Filter find_filter(const std::string& name) {
  if (name == "bilinear") return {triangle, 1.0};
  if (name == "bicubic") return {cubic, 2.0};
  if (name == "box") return {box, 0.5};
  if (name == "hamming") return {hamming, 1.0};
  return {lanczos, 3.0};
}

// What one output pixel is made of.
struct Span {
  std::int64_t first = 0;
  std::vector<std::int32_t> weights;
};

Span make_span(const Filter& filter, std::int64_t in, double scale, std::int64_t out_index) {
  const double widened = std::max(scale, 1.0), support = filter.support * widened;
  const double center = (static_cast<double>(out_index) + 0.5) * scale;
  const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - support + 0.5));
  const auto last = std::min(in, static_cast<std::int64_t>(center + support + 0.5));
  std::vector<double> exact;
  double total = 0;
  for (std::int64_t i = first; i < last; ++i) {
    const double distance = static_cast<double>(i) - center + 0.5;
    exact.push_back(filter.weight(distance * (1.0 / widened)));
    total += exact.back();
  }
  Span span{first, {}};
  for (const double value : exact) {
    const double scaled = (total != 0 ? value / total : value) * (1 << kFraction);
    span.weights.push_back(static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
  }
  return span;
}

std::vector<Span> make_spans(const Filter& filter, std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  std::vector<Span> spans;
  for (std::int64_t i = 0; i < out; ++i) spans.push_back(make_span(filter, in, scale, i));
  return spans;
}

std::uint8_t round_to_byte(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kFraction, 0, 255));
}

// One pixel of three channels, from pixels that are `step` bytes apart.
void blend(const Span& span, const std::uint8_t* in, std::int64_t step, std::uint8_t* out) {
  std::int32_t sum[3] = {1 << (kFraction - 1), 1 << (kFraction - 1), 1 << (kFraction - 1)};
  for (const std::int32_t weight : span.weights) {
    for (int c = 0; c < 3; ++c) sum[c] += weight * in[c];
    in += step;
  }
  for (int c = 0; c < 3; ++c) out[c] = round_to_byte(sum[c]);
}

Picture resize_width(const Picture& in, std::int64_t width, const Filter& filter) {
  if (in.width == width) return in;
  const auto spans = make_spans(filter, in.width, width);
  Picture out(width, in.height);
  for (std::int64_t y = 0; y < in.height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const Span& span = spans[static_cast<std::size_t>(x)];
      blend(span, in.at(y, span.first), 3, out.at(y, x));
    }
  }
  return out;
}

Picture resize_height(const Picture& in, std::int64_t height, const Filter& filter) {
  if (in.height == height) return in;
  const auto spans = make_spans(filter, in.height, height);
  Picture out(in.width, height);
  for (std::int64_t y = 0; y < height; ++y) {
    const Span& span = spans[static_cast<std::size_t>(y)];
    for (std::int64_t x = 0; x < in.width; ++x) blend(span, in.at(span.first, x), 3 * in.width, out.at(y, x));
  }
  return out;
}

// Walks in steps, so that rounding adds up as it does there.
std::vector<std::int64_t> nearest_places(std::int64_t in, std::int64_t out) {
  const double step = static_cast<double>(in) / static_cast<double>(out);
  std::vector<std::int64_t> places;
  double at = step * 0.5;
  for (std::int64_t i = 0; i < out; ++i) {
    places.push_back(std::min(in - 1, static_cast<std::int64_t>(at)));
    at += step;
  }
  return places;
}

Picture resize_nearest(const Picture& in, Size size) {
  const auto rows = nearest_places(in.height, size.height), columns = nearest_places(in.width, size.width);
  Picture out(size.width, size.height);
  for (std::int64_t y = 0; y < size.height; ++y) {
    for (std::int64_t x = 0; x < size.width; ++x) {
      std::copy_n(in.at(rows[static_cast<std::size_t>(y)], columns[static_cast<std::size_t>(x)]), 3, out.at(y, x));
    }
  }
  return out;
}

}  // namespace

Picture resize(const Picture& picture, Size size, const std::string& name) {
  if (picture.size() == size) return picture;
  if (name == "nearest") return resize_nearest(picture, size);
  const Filter filter = find_filter(name);
  const bool rows_first = size.height < picture.height &&
                          picture.height - size.height > 2 * (picture.width - size.width);
  if (!rows_first) return resize_height(resize_width(picture, size.width, filter), size.height, filter);
  return resize_width(resize_height(picture, size.height, filter), size.width, filter);
}

}  // namespace edgetok_impl
