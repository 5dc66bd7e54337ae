// A bundle on a device: all graphs made ready at load, over one set of buffers.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "control/controller.hpp"
#include "runtime/cache.hpp"
#include "runtime/room.hpp"
#include "runtime/segments.hpp"

namespace edgetok_impl {

// What one image leaves behind; every rung starts from it.
struct TowerOutput {
  std::map<std::string, std::vector<float>> tensors;
  Signals signals;
  std::optional<std::int64_t> budget;  // the rung whose tower this came from, where each has its own
};

// What the language model sees of an image on one rung.
struct VisualTokens {
  std::vector<float> rows;  // [K, D]
  Ids kept;                 // [K]
  std::vector<float> deep;  // [K, layers * D], empty where nothing is added behind the first layers
};

struct LoadOptions {
  std::vector<std::int64_t> budgets;  // empty: all
  int threads = 0;                    // 0: one per core
  std::string flavour;  // that of the device when empty
  std::string device = "cpu";
  std::string precision = "fp16";  // of matrix products in engines
  bool packed = false;
};

class Runtime {
 public:
  Runtime(const Bundle& bundle, const LoadOptions& options);

  const std::vector<Rung>& ladder() const { return ladder_; }
  const Rung& rung(std::int64_t budget) const;
  const std::string& flavour() const { return flavour_; }
  bool reads_prompt() const { return reads_prompt_; }
  bool has_tower_per_rung() const { return tower_per_rung_; }
  std::int64_t cache_bytes() const { return backend_->cache_bytes(); }
  std::int64_t buffer_bytes() const { return backend_->other_bytes(); }

  // Runs the tower of `budget` on pixels [parts, 3, h, w].
  TowerOutput encode(const std::vector<float>& pixels, std::int64_t budget);
  // Reduces an encoded image to `budget` tokens.
  // `weights` are of each picture, by which a method may divide it; all 1 if there are none.
  VisualTokens compress(const TowerOutput& image, std::int64_t budget, const Prompt& prompt,
                        const std::vector<float>& weights);
  // Rows [before + K + after, D] of a prompt.
  std::vector<float> embed(const Prompt& prompt, const VisualTokens& visual);
  // What prefill of so many rows takes, in rows of the graph that would run: the shortest that has them.
  std::size_t prefill_cost(std::int64_t budget, std::size_t rows) const;
  // Fills the cache; logits [W] of the last row, valid until the next call.
  const float* prefill(std::int64_t budget, const std::vector<float>& rows, const Prompt& prompt,
                       const VisualTokens& visual);
  // Appends a token; logits [W].
  const float* step(std::int64_t token);
  std::int64_t rows_left() const { return rows_.left(); }
  // The decoder layer before which visual rows left the last prompt, or the number of layers where
  // they stayed; none where no signal decides that.
  std::optional<std::int64_t> exit_layer() const;

  // ---- rows behind those that the cache holds, for reuse.hpp; in extending.cpp ----
  // Whether what the cache holds is of use to any other prompt.
  bool may_reuse() const { return manifest_.kv.reuse != "nothing"; }
  // Whether the cache may be cut after any row, and every layer has all rows until there.
  bool may_rewind() const { return manifest_.kv.reuse == "rewind" && rows_.are_whole(); }
  void rewind(std::int64_t rows) { rows_.rewind(rows); }
  // Rows that chunks may have, ascending; none where there is no graph for them.
  std::vector<std::size_t> chunk_sizes() const;
  // Appends a chunk of one of these sizes [R, D]; logits [W] of its last row.
  const float* put(const float* rows, std::size_t count);
  // Throws Error(input) unless so many rows can be appended.
  void require_left(std::int64_t rows) const;

 private:
  void load(const Bundle& bundle, const MakeGraph& make);
  void require(const Bundle& bundle, const Stage& stage, const Rung& rung) const;
  Graph& graph(const std::string& stage, std::int64_t budget) const;  // the longest, where there are several
  Graph& prompt_graph(std::int64_t budget, std::size_t rows) const;   // the shortest with so many, else the longest
  std::vector<float> embed_ids(const Ids& ids);
  void write_prompt(const Graph& graph, const std::vector<float>& rows, const Prompt& prompt);
  std::vector<std::int32_t> past_lengths(std::int64_t beyond) const;
  Ids next_positions(std::int64_t count) const;

  const Manifest& manifest_;  // of the bundle, which the model keeps
  std::string flavour_;
  std::vector<Rung> ladder_;
  bool reads_prompt_ = false, tower_per_rung_ = false;
  CacheRows rows_;
  std::unique_ptr<Backend> backend_;  // before the graphs, which it outlives
  std::map<std::string, std::unique_ptr<Graph>> by_file_;
  // By stage and rung, and by the rows that each takes at most.
  std::map<std::pair<std::string, std::int64_t>, std::map<std::size_t, Graph*>> graphs_;
  Segments segments_;
  Compaction compaction_;
  Flushing flushing_;
};

}  // namespace edgetok_impl
