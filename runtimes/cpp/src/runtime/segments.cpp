#include "runtime/segments.hpp"

#include "generated.hpp"

namespace edgetok_impl {

void Segments::load(const Manifest& manifest, const std::vector<Rung>& ladder, const std::string& flavour,
                    const MakeGraph& make) {
  exits_ = manifest.exits;
  layers_ = left_ = manifest.kv.layers;
  for (auto rung = ladder.rbegin(); rung != ladder.rend(); ++rung) {
    for (const auto& stage : manifest.stages) {
      if (stage.flavour != flavour || stage.stage != "segment" || stage.budget != rung->budget) continue;
      with_vision_[{rung->budget, stage.layer.value_or(0)}] = make(stage, *rung);
    }
  }
  for (const auto& stage : manifest.stages) {
    if (stage.flavour != flavour || stage.stage != "exited") continue;
    exited_[stage.layer.value_or(0)] = make(stage, ladder.back());
  }
}

const Graph& Segments::follow(const Graph& first, std::int64_t budget, std::int64_t rows,
                                   std::int64_t start) {
  const Graph* graph = &first;
  left_ = layers_;
  for (const auto layer : exits_) {  // the manifest has each of these graphs once
    if (left_ == layers_ && graph->output(names::EXIT_SIGNAL).as<float>()[0] > 0) left_ = layer;
    Graph& next = left_ < layers_ ? *exited_.at(layer) : *with_vision_.at({budget, layer});
    if (left_ < layers_) place_text(next, budget, rows, start);
    next.run();
    graph = &next;
  }
  return *graph;
}

// Where text rows are, and where they stay in the positions of the model.
void Segments::place_text(const Graph& graph, std::int64_t visual, std::int64_t rows, std::int64_t start) const {
  const Buffer& positions = graph.input(names::TEXT_POSITIONS);
  std::vector<std::int64_t> place(positions.count<std::int64_t>());
  for (std::size_t i = 0; i < place.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    place[i] = at < start ? at : at + visual;
  }
  positions.write(place);
  const std::int64_t last = rows - visual - 1;
  const std::vector<std::int32_t> lengths(static_cast<std::size_t>(layers_), static_cast<std::int32_t>(last));
  graph.input(names::PAST_LENGTHS).write(lengths);
  if (graph.reads(names::LAST_ROW)) graph.input(names::LAST_ROW).write(std::vector<std::int64_t>{last});
}

std::vector<std::int64_t> Segments::removed(std::int64_t budget) const {
  std::vector<std::int64_t> out;
  for (std::int64_t layer = 0; layer < layers_; ++layer) out.push_back(layer >= left_ ? budget : 0);
  return out;
}

}  // namespace edgetok_impl
