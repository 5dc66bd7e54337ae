// The buffers of KIVI, ZipCache and ThinK caches: rows wait in a ring before they are made smaller.
#pragma once

#include <set>

#include "places.hpp"

namespace edgetok_impl {

// Constants of such a cache; buffers of one layer by the part of it that they hold.
struct RingShape {
  std::int64_t ring = 0;  // rows that wait
  Side buffers;
  Side group;                           // what one full ring becomes; empty where no graph packs it
  std::set<std::string> written;        // what a step writes
  std::set<std::string> waiting;        // what the flush graph reads
  bool is_tiered = false;               // ZipCache: `filled` says how many rows each tier holds
};

// None where there is another cache.
std::optional<RingShape> ring_shape(const Manifest& manifest);

}  // namespace edgetok_impl
