// From logits to the next token: the largest one, or a seeded draw from the likeliest ones. Every sum
// is added up in the order of runtimes/text/sampling.py, so that both draw and are sure alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bundle/manifest.hpp"
#include "runtime/random.hpp"

namespace edgetok_impl {

struct Sampling {
  double temperature = 0;  // 0: the likeliest token
  double top_p = 0;  // this and the others, where 0: what the checkpoint asks for
  std::uint64_t seed = 0;
  std::int64_t top_k = 0;  // here and below: negative for none
  double repetition_penalty = 0;
  std::int64_t no_repeat_ngram_size = 0, min_new_tokens = 0;
};

// Throws Error(usage) for values that are out of range.
void require_sampling(const Sampling& sampling);

// Chooses the tokens of one answer to a prompt, the ids of the image among it.
class Sampler {
 public:
  Sampler(const Sampling& sampling, const Manifest& manifest, std::vector<std::int64_t> prompt);
  std::int64_t choose(const float* logits, std::size_t count);

 private:
  void process(std::vector<float>& scores) const;
  std::int64_t draw_from(std::vector<float>& scores);

  const Generation& asked_;
  const std::vector<std::int64_t>& stop_ids_;
  std::vector<std::int64_t> seen_;
  std::size_t begin_;
  std::vector<float> scores_;
  Sampling sampling_;
  Pcg64 random_;
  std::vector<double> probabilities_;
};

// Natural logarithm of the probability that the model gives a token, at temperature 1.
double log_probability(const float* logits, std::size_t count, std::int64_t token);

// Probability of the likeliest token minus that of the second; 0 unsure, 1 certain.
double margin(const float* logits, std::size_t count);

}  // namespace edgetok_impl
