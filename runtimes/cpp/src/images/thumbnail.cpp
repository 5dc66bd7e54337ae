#include "images/thumbnail.hpp"

#include <cmath>
#include <limits>

#include "error.hpp"

namespace edgetok_impl {

namespace {

constexpr float kDigits = 10000;  // a hundredth of one of 256 levels, and short in a file

// NumPy's order of adding up a run of numbers: see its pairwise_sum.
float sum_run(const float* values, std::size_t count) {
  if (count > 128) {
    const std::size_t half = count / 2 - count / 2 % 8;
    return sum_run(values, half) + sum_run(values + half, count - half);
  }
  std::size_t i = 0;
  float total = 0;
  if (count >= 8) {
    float part[8];
    for (std::size_t j = 0; j < 8; ++j) part[j] = values[j];
    for (i = 8; i + 8 <= count; i += 8) {
      for (std::size_t j = 0; j < 8; ++j) part[j] += values[i + j];
    }
    total = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  }
  for (; i < count; ++i) total += values[i];
  return total;
}

// How a picture is cut: `side` x `side` cells, in rows of `stride` pixels.
struct Cut {
  std::size_t side, height, width, stride;

  std::size_t cells() const { return side * side; }
  std::size_t at(std::size_t cell, std::size_t y) const {  // where a row of a cell begins
    return (cell / side * height + y) * stride + cell % side * width;
  }
};

std::vector<float> to_grey(const float* pixels, std::size_t size) {
  std::vector<float> out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = ((pixels[i] + pixels[size + i]) + pixels[2 * size + i]) / 3;
  return out;
}

// The mean of a cell: each of its rows is one run. A single cell without a margin is one run as a whole.
float mean_of(const Cut& cut, const std::vector<float>& values, std::size_t cell) {
  const std::size_t count = cut.height * cut.width;
  float total = 0;
  if (cut.side == 1 && cut.width == cut.stride) {
    total = sum_run(values.data(), count);
  } else {
    for (std::size_t y = 0; y < cut.height; ++y) total += sum_run(values.data() + cut.at(cell, y), cut.width);
  }
  return static_cast<float>(static_cast<double>(total) / static_cast<double>(count));
}

// The mean of squared distances from the mean of each cell; they lie without a margin.
std::vector<float> variances(const Cut& cut, const std::vector<float>& grey, const std::vector<float>& means) {
  const Cut packed{cut.side, cut.height, cut.width, cut.side * cut.width};
  std::vector<float> squares(cut.cells() * cut.height * cut.width), out;
  for (std::size_t cell = 0; cell < cut.cells(); ++cell) {
    for (std::size_t y = 0; y < cut.height; ++y) {
      for (std::size_t x = 0; x < cut.width; ++x) {
        const float distance = grey[cut.at(cell, y) + x] - means[cell];
        squares[packed.at(cell, y) + x] = distance * distance;
      }
    }
  }
  for (std::size_t cell = 0; cell < cut.cells(); ++cell) out.push_back(mean_of(packed, squares, cell));
  return out;
}

float round_digits(float value) { return std::nearbyint(value * kDigits) / kDigits; }

}  // namespace

std::vector<double> describe(const float* pixels, std::int64_t height, std::int64_t width, std::int64_t cells) {
  if (height < cells || width < cells) {
    throw usage_error("a picture of " + std::to_string(height) + " x " + std::to_string(width) + " pixels has no " +
                      std::to_string(cells) + " x " + std::to_string(cells) + " cells");
  }
  const auto side = static_cast<std::size_t>(cells), stride = static_cast<std::size_t>(width);
  const Cut cut{side, static_cast<std::size_t>(height) / side, stride / side, stride};
  const auto grey = to_grey(pixels, static_cast<std::size_t>(height) * stride);
  std::vector<float> means;
  means.reserve(cut.cells());
  for (std::size_t cell = 0; cell < cut.cells(); ++cell) means.push_back(mean_of(cut, grey, cell));
  std::vector<double> out;
  out.reserve(2 * cut.cells());
  for (const float mean : means) out.push_back(static_cast<double>(round_digits(mean)));
  for (const float square : variances(cut, grey, means)) {
    out.push_back(static_cast<double>(round_digits(std::sqrt(square))));
  }
  return out;
}

double complexity(const Thumbnail& thumbnail, const std::vector<double>& described) {
  constexpr double kUnknown = std::numeric_limits<double>::infinity();
  if (described.size() != thumbnail.weights.size()) return kUnknown;
  double total = thumbnail.bias;
  for (std::size_t i = 0; i < described.size(); ++i) total += thumbnail.weights[i] * described[i];
  return std::isfinite(total) ? total : kUnknown;
}

}  // namespace edgetok_impl
