// Making room for a row in a cache that has none: graphs choose the rows of a full layer that stay,
// or pack a full ring into few bits.
//
// What they made goes through a scratch, since a graph must not write where it reads; the rows behind
// it are left as they are, and later ones are written over them.
#pragma once

#include "backend.hpp"
#include "cache.hpp"
#include "rings.hpp"

namespace edgetok_impl {

// The graphs that empty each layer; none where no policy does.
class Compaction {
 public:
  void load(const Manifest& manifest, const Rung& rung, const std::string& flavour, const MakeGraph& make);
  void make_room(CacheRows& rows) const;

 private:
  std::map<std::size_t, std::unique_ptr<Graph>> graphs_;  // by layer
};

// The graph that packs the full rings of all layers; none where nothing waits to be packed.
class Flushing {
 public:
  // `region`: inputs of the decode graph, by name.
  void load(const Manifest& manifest, std::unique_ptr<Graph> graph, const std::map<std::string, Buffer>& region);
  void make_room(const CacheRows& rows) const;

 private:
  void pack(std::optional<std::int64_t> group) const;
  const Buffer& region(const std::string& kind, std::int64_t layer) const;

  RingShape shape_;
  std::int64_t layers_ = 0;
  std::map<std::string, Buffer> region_;
  std::unique_ptr<Graph> graph_;
};

}  // namespace edgetok_impl
