// Dtype and shape of every buffer of a KV cache, by the name that graphs give it.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "manifest.hpp"

namespace edgetok_impl {

struct Place {
  std::string dtype;
  std::optional<Shape> shape;  // none: any
};
using Side = std::map<std::string, Place>;  // by name

// past_key, 3 -> past_key_3
std::string layered(const std::string& name, std::int64_t layer);

// The largest integer where the product is larger: no tensor has that many of anything.
std::int64_t product(std::int64_t a, std::int64_t b);

// The buffers of one layer of a plain cache that hold so many rows, by `prefix`: past, present or kept.
Side layer_places(const Manifest& manifest, std::int64_t rows, const std::string& flavour, const std::string& prefix,
                  const std::string& suffix);

// The buffers of all layers, by `prefix`, past or present.
Side cache_places(const Manifest& manifest, const std::string& flavour, const std::string& prefix);

// What short convolutions remember; the first row of a prompt finds nothing.
Side convolution_places(const Manifest& manifest, const std::string& prefix);

}  // namespace edgetok_impl
