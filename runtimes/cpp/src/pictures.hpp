// Several pictures in one prompt: what the tower leaves of them all, as if they were one.
#pragma once

#include <optional>
#include <vector>

#include "runtime.hpp"

namespace edgetok_impl {

// Pictures of a prompt as the tower looks at them, one after another.
struct Pictures {
  const std::vector<float>& pixels;                      // float [pictures * parts, 3, h, w]
  std::size_t count;
  const std::vector<std::optional<TowerOutput>>& known;  // what the tower made of some of them before
};

// Runs the tower of `budget` on each picture that it does not know, and puts their rows one after
// another. Signals that count tokens add up; edges are a mean.
TowerOutput encode_pictures(Runtime& runtime, const Manifest& manifest, const Pictures& pictures,
                            std::int64_t budget);

// Throws Error(usage) unless a prompt of this bundle has so many pictures.
void require_pictures(const Manifest& manifest, std::size_t count);

// Throws Error(usage) unless the method reads weights of pictures and these are some; none are always right.
void require_weights(const Manifest& manifest, const std::vector<float>& weights);

}  // namespace edgetok_impl
