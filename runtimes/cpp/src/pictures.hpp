// Several pictures in one prompt: what the tower leaves of them all, as if they were one.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "runtime.hpp"

namespace edgetok_impl {

// What the tower made of a picture, which may be in several prompts.
using Seen = std::shared_ptr<std::optional<TowerOutput>>;

// Runs the tower of `budget` on those of the pictures [pictures * parts, 3, h, w] that it has not
// seen, and puts the rows of all one after another. Signals that count tokens add up; edges are a mean.
TowerOutput encode_pictures(Runtime& runtime, const Manifest& manifest, const std::vector<float>& pixels,
                            const std::vector<Seen>& pictures, std::int64_t budget);

// Throws Error(usage) unless a prompt of this bundle has so many pictures.
void require_pictures(const Manifest& manifest, std::size_t count);

// Throws Error(usage) unless the method reads weights of pictures and these are some; none are always right.
void require_weights(const Manifest& manifest, const std::vector<float>& weights);

}  // namespace edgetok_impl
