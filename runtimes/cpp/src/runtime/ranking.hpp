// Which classes or texts go best with a picture.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"

namespace edgetok_impl {

struct Score {
  std::size_t index = 0;  // of the class or text
  double probability = 0, logit = 0;
};

// Of all classes, by their logits, the likeliest first; ties keep their order.
std::vector<Score> rank_classes(const std::vector<float>& values, const std::string& scores);

// The same of texts, by the cosines of their embeddings with the picture's.
std::vector<Score> rank_texts(const std::vector<double>& cosines, const Similarity& similarity);

// The dot product of two embeddings of one length.
double cosine_of(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace edgetok_impl
