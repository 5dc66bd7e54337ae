// Prefill graph by graph, where a signal may have the visual rows leave between two of them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"

namespace edgetok_impl {

// The graphs behind the first one of a prefill in segments; none where it is one graph.
class Segments {
 public:
  // The graphs of the rungs of `ladder`, the largest rung first: see `Backend`.
  void load(const Manifest& manifest, const std::vector<Rung>& ladder, const std::string& flavour,
            const MakeGraph& make);
  bool empty() const { return exits_.empty(); }

  // Runs what follows a prompt's first graph, which has run, and returns the one that has the logits.
  // `rows` are those of the prompt, `start` is the first visual one.
  const Graph& follow(const Graph& first, std::int64_t budget, std::int64_t rows, std::int64_t start);

  // The layer before which the last prompt's visual rows left; that of no layer where they stayed.
  std::int64_t left() const { return left_; }
  // Rows that each layer's cache does not hold of it.
  std::vector<std::int64_t> removed(std::int64_t budget) const;

 private:
  void place_text(const Graph& graph, std::int64_t visual, std::int64_t rows, std::int64_t start) const;

  std::vector<std::int64_t> exits_;
  std::int64_t layers_ = 0, left_ = 0;
  std::map<std::pair<std::int64_t, std::int64_t>, std::unique_ptr<Graph>> with_vision_;  // budget, layer
  std::map<std::int64_t, std::unique_ptr<Graph>> exited_;                                // by layer
};

}  // namespace edgetok_impl
