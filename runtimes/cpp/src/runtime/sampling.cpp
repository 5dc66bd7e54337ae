#include "runtime/sampling.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "error.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
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

void ban(std::vector<float>& scores, const std::vector<std::int64_t>& ids) {
  for (const auto id : ids) {
    if (id < static_cast<std::int64_t>(scores.size())) scores[static_cast<std::size_t>(id)] = -kInfinity;
  }
}

// Divides positive scores of ids that were seen by the penalty, and multiplies the others, each once.
void penalize(std::vector<float>& scores, std::vector<std::int64_t> seen, float penalty) {
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (const auto id : seen) {
    if (id >= static_cast<std::int64_t>(scores.size())) break;
    float& score = scores[static_cast<std::size_t>(id)];
    score = score < 0 ? score * penalty : score / penalty;
  }
}

// The ids that would end a sequence of `size` ids which was seen before.
std::vector<std::int64_t> find_repeating(const std::vector<std::int64_t>& seen, std::size_t size) {
  std::vector<std::int64_t> out;
  if (seen.size() < size) return out;
  const auto last = seen.end() - static_cast<std::ptrdiff_t>(size - 1);
  for (auto at = seen.begin(); seen.end() - at >= static_cast<std::ptrdiff_t>(size); ++at) {
    if (std::equal(last, seen.end(), at)) out.push_back(at[static_cast<std::ptrdiff_t>(size - 1)]);
  }
  return out;
}

// Leaves the `count` largest scores, and those equal to the last of them.
void keep_likeliest(std::vector<float>& scores, std::size_t count) {
  if (count == 0 || count >= scores.size()) return;
  std::vector<float> sorted = scores;
  const auto place = sorted.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(sorted.begin(), place, sorted.end(), std::greater<>());
  for (float& score : scores) {
    if (score < *place) score = -kInfinity;
  }
}

std::int64_t given(std::int64_t own, std::int64_t asked) {
  return own == 0 ? asked : std::max<std::int64_t>(own, 0);
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
  if (!(s.repetition_penalty >= 0 && s.repetition_penalty <= 1e6)) {
    throw usage_error("repetition_penalty " + format_number(s.repetition_penalty, 6) + " is not above 0, or above 1e6; 1: none");
  }
  if (!(s.top_p >= 0 && s.top_p <= 1)) {
    throw usage_error("top_p " + format_number(s.top_p, 6) + " is outside 0..1; 1 draws among all tokens");
  }
}

Sampler::Sampler(const Sampling& sampling, const Manifest& manifest, std::vector<std::int64_t> prompt)
    : asked_(manifest.generation),
      stop_ids_(manifest.text.stop_ids),
      seen_(std::move(prompt)),
      begin_(seen_.size()),
      sampling_(sampling),
      random_(sampling.seed) {
  if (sampling_.top_p == 0) sampling_.top_p = asked_.top_p;
  if (sampling_.repetition_penalty == 0) sampling_.repetition_penalty = asked_.repetition_penalty;
  sampling_.top_k = given(sampling.top_k, asked_.top_k);
  sampling_.no_repeat_ngram_size = given(sampling.no_repeat_ngram_size, asked_.no_repeat_ngram_size);
  sampling_.min_new_tokens = given(sampling.min_new_tokens, asked_.min_new_tokens);
}

// Holds back what transformers' logits processors hold back, in their order.
void Sampler::process(std::vector<float>& scores) const {
  const std::size_t made = seen_.size() - begin_;
  if (sampling_.repetition_penalty != 1) penalize(scores, seen_, static_cast<float>(sampling_.repetition_penalty));
  if (sampling_.no_repeat_ngram_size > 0) {
    ban(scores, find_repeating(seen_, static_cast<std::size_t>(sampling_.no_repeat_ngram_size)));
  }
  const bool is_short = seen_.size() < static_cast<std::size_t>(asked_.min_length) ||
                        made < static_cast<std::size_t>(sampling_.min_new_tokens);
  if (is_short) ban(scores, stop_ids_);
  ban(scores, asked_.suppress_ids);
  if (made == 0) ban(scores, asked_.begin_suppress_ids);
}

std::int64_t Sampler::draw_from(std::vector<float>& scores) {
  const std::size_t peak = find_peak(scores.data(), scores.size());
  if (sampling_.temperature == 0 || scores[peak] == -kInfinity) return static_cast<std::int64_t>(peak);
  keep_likeliest(scores, static_cast<std::size_t>(sampling_.top_k));
  probabilities_.resize(scores.size());
  softmax(scores.data(), sampling_.temperature, probabilities_);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] == -kInfinity) probabilities_[i] = 0;
  }
  keep_nucleus(sampling_.top_p, probabilities_);
  return static_cast<std::int64_t>(draw(probabilities_, random_.uniform()));
}

std::int64_t Sampler::choose(const float* logits, std::size_t count) {
  scores_.assign(logits, logits + count);
  process(scores_);
  const std::int64_t token = draw_from(scores_);
  seen_.push_back(token);
  return token;
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
