#include "runtime/runtime.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "bundle/buffers.hpp"
#include "generated.hpp"
#include "machine.hpp"
#include "runtime/interface.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

constexpr const char* kStages[] = {"compress", "tower", "embed", "prefill", "decode"};  // see `Backend`
constexpr std::int64_t kScratch = 8;  // live activations, in multiples of the widest tensor

void require_flavour(const Manifest& m, const std::string& flavour) {
  for (const auto& stage : shared_stages(m)) {
    const bool found = std::any_of(m.stages.begin(), m.stages.end(), [&](const Stage& s) {
      return s.stage == stage && s.flavour == flavour;
    });
    if (found) continue;
    throw usage_error("this bundle has no " + shorten(flavour) + " graph of " + stage +
                      "; use flavour ort, or export it again");
  }
}

std::vector<Rung> pick_rungs(const std::vector<Rung>& all, const std::vector<std::int64_t>& budgets) {
  if (budgets.empty()) return all;
  const std::set<std::int64_t> wanted(budgets.begin(), budgets.end());
  std::vector<Rung> out;
  for (const auto budget : wanted) {
    choose_fixed(all, budget);  // says which rungs there are if this one is not among them
    for (const auto& rung : all) {
      if (rung.budget == budget) out.push_back(rung);
    }
  }
  return out;
}

// Memory that loading and running takes at least: weights, KV cache, activations. Manifests may say
// numbers of which no integer holds the sum.
double needed_bytes(const Manifest& m, const std::vector<Rung>& ladder, const std::string& flavour) {
  const auto size_of = [](const Tensor& tensor) { return static_cast<double>(bytes_of(tensor)); };
  double widest = 0, total = static_cast<double>(weights_bytes(m));
  std::map<std::string, double> unpacked;
  for (const auto& stage : m.stages) {
    const bool loaded = !stage.budget || std::any_of(ladder.begin(), ladder.end(), [&](const Rung& rung) {
      return rung.budget == *stage.budget;
    });
    if (stage.flavour != flavour || !loaded) continue;
    for (const auto* side : {&stage.inputs, &stage.outputs}) {
      for (const auto& tensor : *side) {
        if (is_unpacked(tensor.name)) {
          unpacked[tensor.name] = size_of(tensor);
        } else if (!is_buffer(tensor.name)) {
          widest = std::max(widest, size_of(tensor));
        }
      }
    }
  }
  for (const auto& [name, tensor] : list_buffers(m, flavour)) total += size_of(tensor);
  for (const auto& [name, bytes] : unpacked) total += bytes;
  return total + kScratch * widest;
}

void require_memory(const Manifest& m, const std::vector<Rung>& ladder, const std::string& flavour) {
  const double needed = needed_bytes(m, ladder, flavour);
  const auto available = available_bytes();
  if (available < 0 || needed <= static_cast<double>(available)) return;
  throw Error(Code::resources, "this bundle needs at least " + format_number(std::floor(needed / (1 << 20)), 15) + " MiB and " +
                                   std::to_string(available >> 20) +
                                   " MiB are free; end other programs, load fewer rungs, or export with int4 weights");
}

std::vector<float> copy_floats(const Buffer& buffer) {
  const float* first = buffer.as<float>();
  return {first, first + buffer.count<float>()};
}

}  // namespace

Runtime::Runtime(const Bundle& bundle, const LoadOptions& options)
    : manifest_(bundle.manifest()),
      flavour_(pick_flavour(options.device, options.flavour, bundle.manifest())),
      ladder_(pick_rungs(bundle.manifest().ladder, options.budgets)),
      rows_(bundle.manifest().kv, bundle.manifest().text.max_positions) {
  require_flavour(manifest_, flavour_);
  require_buffers(manifest_, flavour_);
  backend_ = make_backend(bundle, {options.device, flavour_, options.precision, pick_threads(options.threads),
                                   options.packed});
  load(bundle, [&](const Stage& stage, const Rung& rung) {
    require(bundle, stage, rung);
    return backend_->bind(stage);
  });
  tower_per_rung_ = edgetok_impl::has_tower_per_rung(manifest_);
  const Graph& compress = graph("compress", ladder_[0].budget);
  reads_prompt_ = compress.reads(names::TEXT_EMBEDS) || compress.reads(names::TEXT_MASK);
  bundle.require_same_weights();
}

void Runtime::require(const Bundle& bundle, const Stage& stage, const Rung& rung) const {
  require_interface({manifest_, stage, rung, bundle.stage("tower", rung.budget, flavour_),
                     bundle.stage("compress", rung.budget, flavour_)});
}

void Runtime::load(const Bundle& bundle, const MakeGraph& make) {
  require_memory(manifest_, ladder_, flavour_);
  for (const auto& stage : manifest_.stages) {  // weights that graphs read as inputs
    if (stage.stage == names::UNPACK && stage.flavour == flavour_) backend_->bind(stage)->run();
  }
  std::vector<std::string> stages(std::begin(kStages), std::end(kStages));
  if (manifest_.kv.extends) stages.emplace_back(names::EXTEND);
  for (const auto& name : stages) {
    for (auto rung = ladder_.rbegin(); rung != ladder_.rend(); ++rung) {  // see `Backend`
      bundle.stage(name, rung->budget, flavour_);  // says what is missing
      for (const Stage* stage : stages_of(manifest_, name, rung->budget, flavour_)) {
        auto& graph = by_file_[stage->file];
        if (graph) require(bundle, *stage, *rung);
        if (!graph) graph = make(*stage, *rung);
        graphs_[{name, rung->budget}][static_cast<std::size_t>(count_rows(*stage))] = graph.get();
      }
    }
  }
  segments_.load(manifest_, ladder_, flavour_, make);
  const Cache& cache = graph("decode", ladder_[0].budget).inputs();
  compaction_.load(manifest_, ladder_.back(), flavour_, make, cache);
  if (manifest_.kv.filing == "none") return;
  const Stage& flush = bundle.stage(names::FLUSH, ladder_.back().budget, flavour_);
  flushing_.load(manifest_.kv, make(flush, ladder_.back()), cache);
}

Graph& Runtime::graph(const std::string& stage, std::int64_t budget) const {
  const auto found = graphs_.find({stage, budget});
  if (found == graphs_.end()) throw usage_error("the rung of " + std::to_string(budget) + " visual tokens is not loaded");
  return *found->second.rbegin()->second;
}

Graph& Runtime::prompt_graph(std::int64_t budget, std::size_t rows) const {
  Graph& longest = graph("prefill", budget);
  const auto& graphs = graphs_.at({"prefill", budget});
  const auto found = graphs.lower_bound(rows);
  return found == graphs.end() ? longest : *found->second;
}

std::size_t Runtime::prefill_cost(std::int64_t budget, std::size_t rows) const {
  const Buffer& input = prompt_graph(budget, rows).input(names::INPUT_EMBEDS);
  return static_cast<std::size_t>(costs::CALL_COST + input.tensor.shape[1]);
}

const Rung& Runtime::rung(std::int64_t budget) const {
  for (const auto& rung : ladder_) {
    if (rung.budget == budget) return rung;
  }
  throw usage_error("the rung of " + std::to_string(budget) + " visual tokens is not loaded");
}

TowerOutput Runtime::encode(const std::vector<float>& pixels, std::int64_t budget) {
  Graph& tower = graph("tower", budget);
  const Buffer& input = tower.input(names::PIXELS);
  if (pixels.size() != input.count<float>()) {
    throw input_error("the image has " + std::to_string(pixels.size()) + " values; this bundle reads " +
                      format_list(input.tensor.shape) + "; its processor/image.json does not fit its tower");
  }
  input.write(pixels);
  tower.run();
  TowerOutput out;
  for (const auto& [name, buffer] : tower.outputs()) {
    if (name.rfind("signal_", 0) == 0) {
      out.signals[name] = static_cast<double>(buffer.as<float>()[0]);
    } else if (buffer.tensor.dtype == "float32") {
      out.tensors[name] = copy_floats(buffer);
    } else {  // TOWER_KEPT, whose bytes pass through as they are
      out.tensors[name].resize((buffer.bytes + sizeof(float) - 1) / sizeof(float));
      std::memcpy(out.tensors[name].data(), buffer.as<char>(), buffer.bytes);
    }
  }
  if (tower_per_rung_) out.budget = budget;
  return out;
}

VisualTokens Runtime::compress(const TowerOutput& image, std::int64_t budget, const Prompt& prompt,
                               const std::vector<float>& weights) {
  Graph& compress = graph("compress", budget);
  const std::vector<float> text = reads_prompt_ ? embed_ids(prompt.all()) : std::vector<float>();
  for (const auto& [name, buffer] : compress.inputs()) {
    const auto found = image.tensors.find(name);
    if (found != image.tensors.end()) buffer.write(found->second);
  }
  if (reads_prompt_) write_prompt(compress, text, prompt);
  if (compress.reads(names::PICTURE_WEIGHTS)) {
    const Buffer& shares = compress.input(names::PICTURE_WEIGHTS);
    shares.write(weights.empty() ? std::vector<float>(shares.count<float>(), 1) : weights);
  }
  compress.run();
  VisualTokens out;
  out.rows = copy_floats(compress.output(names::VISUAL_TOKENS));
  const Buffer& kept = compress.output(names::KEPT);
  out.kept.assign(kept.as<std::int64_t>(), kept.as<std::int64_t>() + kept.count<std::int64_t>());
  if (compress.writes(names::VISUAL_DEEP)) out.deep = copy_floats(compress.output(names::VISUAL_DEEP));
  return out;
}

void Runtime::write_prompt(const Graph& graph, const std::vector<float>& rows, const Prompt& prompt) {
  if (graph.reads(names::TEXT_EMBEDS)) {
    const Buffer& embeds = graph.input(names::TEXT_EMBEDS);
    std::vector<float> padded(embeds.count<float>());  // what is never read must be finite
    if (rows.size() > padded.size()) throw input_error("the prompt has more text tokens than the rung has room for");
    std::copy(rows.begin(), rows.end(), padded.begin());
    embeds.write(padded);
  }
  if (graph.reads(names::TEXT_MASK)) {
    const Buffer& mask = graph.input(names::TEXT_MASK);
    std::vector<float> own(mask.count<float>());
    for (std::size_t i = 0; i < prompt.question_count; ++i) own.at(prompt.question_first + i) = 1;
    mask.write(own);
  }
}

std::vector<float> Runtime::embed_ids(const Ids& ids) {
  Graph& embed = graph("embed", ladder_[0].budget);
  const Buffer& input = embed.input(names::TOKEN_IDS);
  const Buffer& output = embed.output(names::TEXT_EMBEDS);
  const std::size_t most = input.count<std::int64_t>();
  const auto width = static_cast<std::size_t>(manifest_.text.hidden);
  std::vector<float> out;
  for (std::size_t at = 0; at < ids.size(); at += most) {
    const std::size_t count = std::min(most, ids.size() - at);
    Ids padded(most, manifest_.text.pad_id);
    std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(at), count, padded.begin());
    input.write(padded);
    embed.run();
    const float* rows = output.as<float>();
    out.insert(out.end(), rows, rows + count * width);
  }
  return out;
}

std::vector<float> Runtime::embed(const Prompt& prompt, const VisualTokens& visual) {
  const std::vector<float> text = embed_ids(prompt.all());
  const auto split = text.begin() + static_cast<std::ptrdiff_t>(prompt.before.size()) * manifest_.text.hidden;
  std::vector<float> out(text.begin(), split);
  out.insert(out.end(), visual.rows.begin(), visual.rows.end());
  out.insert(out.end(), split, text.end());
  return out;
}

const float* Runtime::prefill(std::int64_t budget, const std::vector<float>& rows, const Prompt& prompt,
                              const VisualTokens& visual) {
  const auto count = static_cast<std::int64_t>(rows.size()) / manifest_.text.hidden;
  Graph& prefill = prompt_graph(budget, static_cast<std::size_t>(count));
  const Rung& rung = this->rung(budget);
  std::vector<float> padded(prefill.input(names::INPUT_EMBEDS).count<float>());
  if (count < 1 || rows.size() > padded.size()) {
    throw input_error(std::to_string(count) + " prompt rows; this rung has room for 1.." +
                      std::to_string(rung.prefill_tokens()));
  }
  std::copy(rows.begin(), rows.end(), padded.begin());
  prefill.input(names::INPUT_EMBEDS).write(padded);
  if (prefill.reads(names::VISUAL_START)) {
    if (prompt.after.empty()) throw input_error("text must follow the image in this bundle's prompts");
    prefill.input(names::VISUAL_START).write(Ids{static_cast<std::int64_t>(prompt.before.size())});
  }
  if (prefill.reads(names::VISUAL_KEPT)) prefill.input(names::VISUAL_KEPT).write(visual.kept);
  if (prefill.reads(names::VISUAL_DEEP)) prefill.input(names::VISUAL_DEEP).write(visual.deep);
  std::vector<std::int32_t> lengths;
  for (const auto removed : rung.removed) lengths.push_back(static_cast<std::int32_t>(count - removed - 1));
  prefill.input(names::LAST_ROW).write(Ids{lengths.back()});
  prefill.input(names::PAST_LENGTHS).write(lengths);
  rows_.begin(count, rung.removed, rung.shift);
  prefill.run();
  if (segments_.empty()) return prefill.output(names::LOGITS).as<float>();
  const auto start = static_cast<std::int64_t>(prompt.before.size());
  const Graph& last = segments_.follow(prefill, budget, count, start);
  rows_.begin(count, segments_.removed(budget), 0);
  return last.output(names::LOGITS).as<float>();
}

std::optional<std::int64_t> Runtime::exit_layer() const {
  return segments_.empty() ? std::nullopt : std::optional(segments_.left());
}

// How many rows each layer holds, and so many beyond.
std::vector<std::int32_t> Runtime::past_lengths(std::int64_t beyond) const {
  std::vector<std::int32_t> out;
  for (std::size_t layer = 0; layer < rows_.layers(); ++layer) {
    out.push_back(static_cast<std::int32_t>(rows_.length(layer) + beyond));
  }
  return out;
}

// Rotary positions [L, count] of the next rows in each layer.
Ids Runtime::next_positions(std::int64_t count) const {
  Ids out;
  for (std::size_t layer = 0; layer < rows_.layers(); ++layer) {
    for (std::int64_t i = 0; i < count; ++i) out.push_back(rows_.position(layer) + i);
  }
  return out;
}

const float* Runtime::step(std::int64_t token) {
  require_left(1);
  compaction_.make_room(rows_);
  flushing_.make_room(rows_);
  Graph& decode = graph("decode", ladder_[0].budget);
  decode.input(names::TOKEN_ID).write(Ids{token});
  decode.input(names::PAST_LENGTHS).write(past_lengths(0));
  decode.input(names::POSITIONS).write(next_positions(1));
  decode.run();
  rows_.append();
  return decode.output(names::LOGITS).as<float>();
}

}  // namespace edgetok_impl
