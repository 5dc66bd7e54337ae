#include "runtime/sampling.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "error.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

constexpr std::size_t kBlock = 1 << 14, kLanes = 64;

// e to the power of a number that is not above 0, by the steps of `_exponential` in Python. Without a
// loop or a call in it, so that compilers do several at once.
inline double exponential(double below) {
  constexpr double kRounding = 0x1.8p52;  // added, it leaves the nearest integer in the lowest bits
  below = below < -708.0 ? -708.0 : below;
  const double shifted = below * 1.4426950408889634 + kRounding;
  const double rest = below - (shifted - kRounding) * 0.6931471805599453;
  double power = rest * (1.0 / 362880);
  power = (power + 1.0 / 40320) * rest;
  power = (power + 1.0 / 5040) * rest;
  power = (power + 1.0 / 720) * rest;
  power = (power + 1.0 / 120) * rest;
  power = (power + 1.0 / 24) * rest;
  power = (power + 1.0 / 6) * rest;
  power = (power + 1.0 / 2) * rest;
  power = (power + 1.0) * rest + 1.0;
  std::uint64_t bits = 0;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  double scale = 0;
  std::memcpy(&scale, &bits, sizeof scale);
  return power * scale;
}

// The sum of `value(i)`: blocks, in each of which 64 sums take every 64th value in turn.
template <class Value>
double add_up(std::size_t count, Value value) {
  std::array<double, kLanes> total{};
  for (std::size_t start = 0; start < count; start += kBlock) {
    std::array<double, kLanes> lanes{};
    const std::size_t end = std::min(count, start + kBlock);
    std::size_t row = start;
    for (; row + kLanes <= end; row += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += value(row + lane);
    }
    for (std::size_t lane = 0; row + lane < end; ++lane) lanes[lane] += value(row + lane);
    for (std::size_t lane = 0; lane < kLanes; ++lane) total[lane] += lanes[lane];
  }
  double sum = 0;
  for (const double lane : total) sum += lane;
  return sum;
}

double total_of(const float* logits, std::size_t count, double peak) {
  return add_up(count, [&](std::size_t i) { return exponential(static_cast<double>(logits[i]) - peak); });
}

std::size_t find_peak(const float* logits, std::size_t count) {
  return static_cast<std::size_t>(std::max_element(logits, logits + count) - logits);
}

void divide_by_sum(std::vector<double>& values) {
  const double sum = add_up(values.size(), [&](std::size_t i) { return values[i]; });
  for (double& value : values) value /= sum;
}

void softmax(const float* logits, double temperature, std::vector<double>& out) {
  const auto peak = static_cast<double>(logits[find_peak(logits, out.size())]);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = exponential((static_cast<double>(logits[i]) - peak) / temperature);
  }
  divide_by_sum(out);
}

// Keeps the fewest likeliest tokens that hold at least `top_p`; the rest get 0.
void keep_nucleus(double top_p, std::vector<double>& probabilities) {
  if (top_p >= 1) return;
  std::vector<std::size_t> order(probabilities.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto follows = [&](std::size_t a, std::size_t b) {  // ties: the lower id comes first
    return probabilities[a] < probabilities[b] || (probabilities[a] == probabilities[b] && a > b);
  };
  std::make_heap(order.begin(), order.end(), follows);  // mostly few are kept: no need to sort all
  auto rest = order.end();
  for (double held = 0; rest != order.begin() && held < top_p;) {
    std::pop_heap(order.begin(), rest, follows);
    held += probabilities[*--rest];
  }
  std::for_each(order.begin(), rest, [&](std::size_t i) { probabilities[i] = 0; });
  divide_by_sum(probabilities);
}

// The token at quantile `uniform`; one of probability 0 is never drawn.
std::size_t draw(const std::vector<double>& probabilities, double uniform) {
  double sum = 0;
  for (const double probability : probabilities) sum += probability;
  const double wanted = uniform * sum;
  double reached = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] == 0) continue;
    reached += probabilities[last = i];
    if (reached > wanted) break;
  }
  return last;
}

}  // namespace

void require_sampling(const Sampling& s) {
  if (!(s.temperature >= 0 && std::isfinite(s.temperature))) {
    throw usage_error("temperature " + format_number(s.temperature, 6) + " is outside 0..inf; 0 is greedy");
  }
  if (!(s.top_p > 0 && s.top_p <= 1)) {
    throw usage_error("top_p " + format_number(s.top_p, 6) + " is outside 0..1; 1 draws among all tokens");
  }
}

std::int64_t Sampler::choose(const float* logits, std::size_t count) {
  if (sampling_.temperature == 0) return static_cast<std::int64_t>(find_peak(logits, count));
  probabilities_.resize(count);
  softmax(logits, sampling_.temperature, probabilities_);
  keep_nucleus(sampling_.top_p, probabilities_);
  return static_cast<std::int64_t>(draw(probabilities_, random_.uniform()));
}

double log_probability(const float* logits, std::size_t count, std::int64_t token) {
  const auto peak = static_cast<double>(logits[find_peak(logits, count)]);
  return static_cast<double>(logits[token]) - peak - std::log(total_of(logits, count, peak));
}

double margin(const float* logits, std::size_t count) {
  if (count < 2) return 1;
  const std::size_t first = find_peak(logits, count);
  float second = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < count; ++i) {
    if (i != first) second = std::max(second, logits[i]);
  }
  const auto peak = static_cast<double>(logits[first]);
  return (1 - exponential(static_cast<double>(second) - peak)) / total_of(logits, count, peak);
}

}  // namespace edgetok_impl
