// The buffers of a KV cache of any scheme: what graphs list, and what must hold between them.
//
// All graphs are bound to what the decode graph lists as past_*, so each of them must mean the same by
// a name. Which rows the host touches follows from `Kv` alone; that there are as many is checked here,
// as edgetok/bundle/buffers.py does.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "bundle/manifest.hpp"

namespace edgetok_impl {

using Buffers = std::map<std::string, Tensor>;  // by name

// Whether a graph's input is a part of the cache.
bool is_buffer(const std::string& name);
// Whether a tensor is a weight that `unpack` makes.
bool is_unpacked(const std::string& name);

// past_key, 3 -> past_key_3
std::string layered(const std::string& name, std::int64_t layer);

// What the decode graph reads of the cache.
Buffers list_buffers(const Manifest& manifest, const std::string& flavour);

// The decoder layers that a graph runs, from and to: some of them where a prefill is in segments.
std::pair<std::int64_t, std::int64_t> layers_of(const Manifest& manifest, const Stage& stage);

// Throws Error(bundle) unless all graphs of a flavour mean the same buffers, with the rows that they need.
void require_buffers(const Manifest& manifest, const std::string& flavour);

}  // namespace edgetok_impl
