// What each graph must take and give, so that the runtime may copy into and out of its buffers. Those
// of the KV cache are not among it: bundle/buffers.hpp checks them, for all graphs together.
#pragma once

#include "bundle/manifest.hpp"

namespace edgetok_impl {

// A graph, a rung that it serves, and the graphs of this rung that run before it.
struct Served {
  const Manifest& manifest;
  const Stage& stage;
  const Rung& rung;
  const Stage& tower;
  const Stage& compress;
};

bool has_tower_per_rung(const Manifest& manifest);

// Throws Error(bundle) naming all missing or misfit inputs and outputs of a graph.
void require_interface(const Served& served);

}  // namespace edgetok_impl
