// What each graph must take and give, so that the runtime may copy into and out of its buffers.
#pragma once

#include "bundle/manifest.hpp"

namespace edgetok_impl {

bool has_tower_per_rung(const Manifest& manifest);

// Throws Error(bundle) naming all missing or misfit inputs and outputs of a graph that serves `rung`.
void require_interface(const Manifest& manifest, const Stage& stage, const Rung& rung, const Stage& tower);

// The buffer of a layer that an output of a compact graph replaces the first rows of.
std::string replaced_by(const std::string& output, std::int64_t layer);

}  // namespace edgetok_impl
