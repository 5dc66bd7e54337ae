// Making room for a row in a cache that has none: a graph says what stays, and the host writes it there.
//
// What they made goes through a scratch, since a graph must not write where it reads; the rows after
// it are left as they are, and later ones are written over them.
#pragma once

#include "backends/backend.hpp"
#include "runtime/cache.hpp"

namespace edgetok_impl {

using Cache = std::map<std::string, Buffer>;  // inputs of the decode graph, by name

// The graphs that empty each layer; none where rows never leave.
class Compaction {
 public:
  void load(const Manifest& manifest, const Rung& rung, const std::string& flavour, const MakeGraph& make,
            const Cache& cache);
  void make_room(CacheRows& rows) const;

 private:
  Cache cache_;
  std::map<std::size_t, std::unique_ptr<Graph>> graphs_;  // by layer
};

// The graph that packs the full rings of all layers, as groups or into tiers (`Kv::filing`); none where
// nothing waits to be packed.
class Flushing {
 public:
  void load(const Kv& kv, std::unique_ptr<Graph> graph, const Cache& cache);
  void make_room(const CacheRows& rows) const;

 private:
  void file_group(std::int64_t number) const;
  void file_in_tiers() const;

  std::int64_t ring_ = 0;
  bool in_tiers_ = false;
  Cache cache_;
  std::unique_ptr<Graph> graph_;
};

}  // namespace edgetok_impl
