// From logits to the next token: the largest one, or a seeded draw from the likeliest ones. Every sum
// is added up in the order of runtimes/text/sampling.py, so that both draw and are sure alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/random.hpp"

namespace edgetok_impl {

struct Sampling {
  double temperature = 0;  // 0: the likeliest token
  double top_p = 1;
  std::uint64_t seed = 0;
};

// Throws Error(usage) for values that are out of range.
void require_sampling(const Sampling& sampling);

// Chooses the tokens of one answer.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling) : sampling_(sampling), random_(sampling.seed) {}
  std::int64_t choose(const float* logits, std::size_t count);

 private:
  Sampling sampling_;
  Pcg64 random_;
  std::vector<double> probabilities_;
};

// Natural logarithm of the probability that the model gives a token, at temperature 1.
double log_probability(const float* logits, std::size_t count, std::int64_t token);

// Probability of the likeliest token minus that of the second; 0 unsure, 1 certain.
double margin(const float* logits, std::size_t count);

}  // namespace edgetok_impl
