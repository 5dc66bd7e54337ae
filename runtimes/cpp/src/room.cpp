#include "room.hpp"

#include <algorithm>

#include "interface.hpp"

namespace edgetok_impl {

namespace {

std::int64_t rows_of(const Buffer& buffer) { return buffer.tensor.shape.size() > 2 ? buffer.tensor.shape[2] : 0; }

// The rows of a buffer [1 or P, G, rows, ...] over those of a larger one, from row `start` on.
void copy_rows(const Buffer& source, const Buffer& target, std::int64_t start) {
  const auto& from = source.tensor.shape;
  const auto& to = target.tensor.shape;
  const std::int64_t rows = rows_of(source);
  if (rows == 0) return;
  if (from.size() != to.size() || start < 0 || start > rows_of(target) - rows) {
    throw bundle_error("tensor " + source.tensor.name + " with " + std::to_string(rows) + " rows does not fit into " +
                       target.tensor.name + " behind row " + std::to_string(start));
  }
  const auto heads = static_cast<std::size_t>(from[0] * from[1]);
  const std::size_t moved = source.bytes / heads, held = target.bytes / heads;
  const std::size_t skipped = moved / static_cast<std::size_t>(rows) * static_cast<std::size_t>(start);
  const char* from_rows = source.as<char>();
  char* to_rows = target.as<char>() + skipped;
  for (std::size_t head = 0; head < heads; ++head) {
    std::memcpy(to_rows + head * held, from_rows + head * moved, moved);
  }
  target.push();
}

// Which of the two counts of `filled` is of this part of ZipCache's tiers.
std::size_t tier_of(const std::string& kind) { return kind.rfind("high", 0) == 0 ? 0 : 1; }

}  // namespace

// The layer with most rows first: see `Backend`.
void Compaction::load(const Manifest& manifest, const Rung& rung, const std::string& flavour, const MakeGraph& make) {
  std::vector<const Stage*> stages;
  for (const auto& stage : manifest.stages) {
    if (stage.stage == "compact" && stage.flavour == flavour && stage.layer) stages.push_back(&stage);
  }
  const auto keep = [&](const Stage* s) { return manifest.kv.keep[static_cast<std::size_t>(*s->layer)]; };
  std::stable_sort(stages.begin(), stages.end(), [&](auto* a, auto* b) { return keep(a) > keep(b); });
  for (const Stage* stage : stages) graphs_[static_cast<std::size_t>(*stage->layer)] = make(*stage, rung);
}

void Compaction::make_room(CacheRows& rows) const {
  for (const auto& [layer, graph] : graphs_) {
    if (!rows.is_full(layer)) continue;
    graph->run();
    for (const auto& [name, kept] : graph->outputs()) {
      copy_rows(kept, graph->input(replaced_by(name, static_cast<std::int64_t>(layer))), 0);
    }
    rows.compact(layer);
  }
}

void Flushing::load(const Manifest& manifest, std::unique_ptr<Graph> graph,
                    const std::map<std::string, Buffer>& region) {
  if (const auto shape = ring_shape(manifest)) shape_ = *shape;
  layers_ = manifest.kv.layers;
  region_ = region;
  graph_ = std::move(graph);
}

void Flushing::make_room(const CacheRows& rows) const {
  if (!graph_) return;
  const std::int64_t held = rows.length(0);
  if (!shape_.is_tiered) {
    if (held != 0 && held % shape_.ring == 0) pack(held / shape_.ring - 1);
    return;
  }
  const auto* filled = region("filled", 0).as<std::int32_t>();
  const std::int64_t packed = std::int64_t{filled[0]} + filled[1];
  if (held - packed == shape_.ring) pack(std::nullopt);
}

// Files what the graph made: as a group of that number, or behind what the tiers hold.
void Flushing::pack(std::optional<std::int64_t> group) const {
  graph_->run();
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    std::int32_t added[2] = {0, 0};
    const auto* filled = shape_.is_tiered ? region("filled", layer).as<std::int32_t>() : nullptr;
    for (const auto& [kind, place] : shape_.group) {
      const Buffer& made = graph_->output(layered("flushed_" + kind, layer));
      const std::size_t tier = tier_of(kind);
      copy_rows(made, region(kind, layer), filled ? filled[tier] : *group * rows_of(made));
      added[tier] = static_cast<std::int32_t>(rows_of(made));
    }
    if (filled) region("filled", layer).write(std::vector<std::int32_t>{filled[0] + added[0], filled[1] + added[1]});
  }
}

const Buffer& Flushing::region(const std::string& kind, std::int64_t layer) const {
  const auto found = region_.find(layered("past_" + kind, layer));
  if (found == region_.end()) throw bundle_error("the decode graph has no buffer of " + kind + "; export again");
  return found->second;
}

}  // namespace edgetok_impl
