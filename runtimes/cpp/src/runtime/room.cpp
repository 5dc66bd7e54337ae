#include "runtime/room.hpp"

#include <algorithm>
#include <array>

#include "bundle/buffers.hpp"

namespace edgetok_impl {

namespace {

constexpr const char* kTiers[] = {"high_", "low_"};  // in the order in which past_filled counts them
constexpr std::size_t kPart = 8;                     // characters of flushed_

std::int64_t rows_of(const Buffer& buffer) { return buffer.tensor.shape.size() > 2 ? buffer.tensor.shape[2] : 0; }

// Whether rows of one buffer, or what goes with them, are as those of the other, and find room from `start` on.
bool do_fit(const Buffer& source, const Buffer& target, std::int64_t start) {
  const auto &from = source.tensor.shape, &to = target.tensor.shape;
  if (from.size() < 3 || from.size() != to.size() || from[0] != to[0] || from[1] != to[1]) return false;
  if (start < 0 || start > to[2] - from[2]) return false;
  return source.bytes / static_cast<std::size_t>(from[2]) == target.bytes / static_cast<std::size_t>(to[2]);
}

// The rows of a buffer [1 or P, G, rows, ...] over those of a larger one, from row `start` on.
void copy_rows(const Buffer& source, const Buffer& target, std::int64_t start) {
  if (source.bytes == 0) return;
  const auto& from = source.tensor.shape;
  if (!do_fit(source, target, start)) {
    throw bundle_error(target.tensor.name + " has " + std::to_string(rows_of(target)) + " rows, and " +
                       std::to_string(rows_of(source)) + " of " + source.tensor.name + " do not fit there from row " +
                       std::to_string(start) + " on; export again");
  }
  const auto heads = static_cast<std::size_t>(from[0] * from[1]);
  const std::size_t moved = source.bytes / heads, held = target.bytes / heads;
  const std::size_t skipped = moved / static_cast<std::size_t>(from[2]) * static_cast<std::size_t>(start);
  const char* from_rows = source.as<char>();
  char* to_rows = target.as<char>() + skipped;
  for (std::size_t head = 0; head < heads; ++head) {
    std::memcpy(to_rows + head * held, from_rows + head * moved, moved);
  }
  target.push();
}

const Buffer& find(const Cache& cache, const std::string& name) {
  const auto found = cache.find(name);
  if (found == cache.end()) throw bundle_error("the decode graph has no buffer " + name + "; export again");
  return found->second;
}

using Counts = std::array<std::int64_t, std::size(kTiers)>;  // rows, by tier

Counts read_counts(const Buffer& filled) {
  Counts out{};
  if (filled.count<std::int32_t>() != out.size()) {
    throw bundle_error(filled.tensor.name + " does not count the rows of two tiers; export again");
  }
  std::copy_n(filled.as<std::int32_t>(), out.size(), out.begin());
  return out;
}

}  // namespace

// The layer with most rows first: see `Backend`.
void Compaction::load(const Manifest& manifest, const Rung& rung, const std::string& flavour, const MakeGraph& make,
                      const Cache& cache) {
  std::vector<const Stage*> stages;
  for (const auto& stage : manifest.stages) {
    if (stage.stage == "compact" && stage.flavour == flavour && stage.layer) stages.push_back(&stage);
  }
  const auto keep = [&](const Stage* s) { return manifest.kv.keep[static_cast<std::size_t>(*s->layer)]; };
  std::stable_sort(stages.begin(), stages.end(), [&](auto* a, auto* b) { return keep(a) > keep(b); });
  for (const Stage* stage : stages) graphs_[static_cast<std::size_t>(*stage->layer)] = make(*stage, rung);
  cache_ = cache;
}

void Compaction::make_room(CacheRows& rows) const {
  for (const auto& [layer, graph] : graphs_) {
    if (!rows.is_full(layer)) continue;
    graph->run();
    for (const auto& [name, kept] : graph->outputs()) {  // kept_key -> past_key_3
      const std::string past = "past" + name.substr(std::min<std::size_t>(4, name.size()));
      copy_rows(kept, find(cache_, layered(past, static_cast<std::int64_t>(layer))), 0);
    }
    rows.compact(layer);
  }
}

void Flushing::load(const Kv& kv, std::unique_ptr<Graph> graph, const Cache& cache) {
  ring_ = kv.ring;
  in_tiers_ = kv.filing == "tiers";
  cache_ = cache;
  graph_ = std::move(graph);
}

void Flushing::make_room(const CacheRows& rows) const {
  if (!graph_) return;
  const std::int64_t held = rows.length(0);
  if (!in_tiers_) {
    if (held != 0 && held % ring_ == 0) file_group(held / ring_ - 1);
    return;
  }
  const Counts filled = read_counts(find(cache_, "past_filled_0"));
  const std::int64_t waiting = held - filled[0] - filled[1];
  if (waiting < 0 || waiting > ring_) {
    throw bundle_error("past_filled_0 counts " + std::to_string(held - waiting) + " of " + std::to_string(held) +
                       " rows, and a ring of " + std::to_string(ring_) + " cannot hold the others; export again");
  }
  if (waiting == ring_) file_in_tiers();
}

void Flushing::file_group(std::int64_t number) const {
  graph_->run();
  for (const auto& [name, made] : graph_->outputs()) {  // flushed_key_0 -> past_key_0
    copy_rows(made, find(cache_, "past_" + name.substr(std::min(kPart, name.size()))), number * rows_of(made));
  }
}

// After the rows that the tiers of each layer hold, which are counted when all are there.
void Flushing::file_in_tiers() const {
  graph_->run();
  std::map<std::string, Counts> added;  // by the buffer that counts
  for (const auto& [name, made] : graph_->outputs()) {  // flushed_low_key_0 -> past_low_key_0, past_filled_0
    const std::string kind = name.substr(std::min(kPart, name.size()));
    const std::size_t tier = kind.rfind(kTiers[0], 0) == 0 ? 0 : 1;
    const std::string filled = "past_filled" + kind.substr(std::min(kind.rfind('_'), kind.size()));
    copy_rows(made, find(cache_, "past_" + kind), read_counts(find(cache_, filled))[tier]);
    added[filled][tier] = rows_of(made);
  }
  for (const auto& [name, rows] : added) {
    const Buffer& filled = find(cache_, name);
    const Counts before = read_counts(filled);
    filled.write(std::vector<std::int32_t>{static_cast<std::int32_t>(before[0] + rows[0]),
                                           static_cast<std::int32_t>(before[1] + rows[1])});
  }
}

}  // namespace edgetok_impl
