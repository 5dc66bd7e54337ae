#include "runtime/ranking.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edgetok_impl {

namespace {

// As NumPy's: one that is no number makes all of them none.
double largest(const std::vector<double>& values) {
  double top = -std::numeric_limits<double>::infinity();
  for (const double value : values) top = std::isnan(value) || value > top ? value : top;
  return top;
}

std::vector<double> softmax(const std::vector<double>& logits) {
  const double peak = largest(logits);
  std::vector<double> out;
  double sum = 0;
  for (const double logit : logits) {
    out.push_back(std::exp(logit - peak));
    sum += out.back();
  }
  for (double& value : out) value /= sum;
  return out;
}

// exp(-log(1 + exp(-x))), which overflows nowhere.
double sigmoid(double x) {
  const double softplus = x > 0 ? std::log1p(std::exp(-x)) : -x + std::log1p(std::exp(x));
  return std::exp(-softplus);
}

std::vector<double> share_out(const std::vector<double>& logits, const std::string& kind) {
  if (kind == "softmax") return softmax(logits);
  std::vector<double> out = logits;
  if (kind == "sigmoid") std::transform(out.begin(), out.end(), out.begin(), sigmoid);
  return out;
}

std::vector<Score> ranked(const std::vector<double>& shares, const std::vector<double>& logits) {
  std::vector<Score> out;
  for (std::size_t i = 0; i < shares.size(); ++i) out.push_back({i, shares[i], logits[i]});
  std::stable_sort(out.begin(), out.end(), [](const Score& a, const Score& b) {
    if (std::isnan(a.probability)) return false;  // behind all numbers
    return std::isnan(b.probability) || a.probability > b.probability;
  });
  return out;
}

}  // namespace

std::vector<Score> rank_classes(const std::vector<float>& values, const std::string& scores) {
  const std::vector<double> logits(values.begin(), values.end());
  return ranked(share_out(logits, scores), logits);
}

std::vector<Score> rank_texts(const std::vector<double>& cosines, const Similarity& similarity) {
  std::vector<double> logits;
  for (const double cosine : cosines) logits.push_back(similarity.scale * cosine + similarity.bias);
  return ranked(share_out(logits, similarity.kind), logits);
}

double cosine_of(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

}  // namespace edgetok_impl
