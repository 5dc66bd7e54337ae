// What a well-formed manifest may still say that cannot be.
#include <algorithm>
#include <set>
#include <tuple>

#include "bundle/buffers.hpp"
#include "bundle/contradictions.hpp"
#include "bundle/files.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

std::string str(std::int64_t value) { return std::to_string(value); }

std::int64_t largest(const Integers& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

bool are_equal(const Integers& values) { return std::set<std::int64_t>(values.begin(), values.end()).size() <= 1; }

void removed_problems(const Kv& kv, const Rung& rung, const std::string& at, Found& out) {
  const auto& removed = rung.removed;
  if (static_cast<std::int64_t>(removed.size()) != kv.layers) {
    out.push_back(at + ".removed has " + str(static_cast<std::int64_t>(removed.size())) +
                  " entries for " + str(kv.layers) + " layers");
  }
  if (!std::is_sorted(removed.begin(), removed.end())) {
    out.push_back(at + ".removed " + format_list(removed) + " falls: rows that are gone do not come back");
  }
  bool exceeds = false;
  for (std::size_t i = 0; i < std::min(removed.size(), kv.slots.size()); ++i) {
    exceeds = exceeds || rung.cache_slots - removed[i] > kv.slots[i];
  }
  if (kv.keep.empty() && exceeds) {
    out.push_back(at + ".cache_slots " + str(rung.cache_slots) + " less .removed exceeds $.kv.slots " +
                  format_list(kv.slots));
  }
  if (largest(removed) > rung.budget) {
    out.push_back(at + ".removed " + format_list(removed) + " is more than the " + str(rung.budget) +
                  " visual tokens");
  }
}

void ladder_problems(const Manifest& m, Found& out) {
  const auto budgets = budgets_of(m);
  if (!rises(budgets)) {
    out.push_back("$.ladder: budgets " + format_list(budgets) + " are not ascending and unique");
  }
  for (std::size_t i = 0; i < m.ladder.size(); ++i) {
    const Rung& rung = m.ladder[i];
    const std::string at = "$.ladder[" + std::to_string(i) + "]";
    if (rung.budget > m.vision.full_tokens) {
      out.push_back(at + ".budget " + str(rung.budget) + " exceeds the " + str(m.vision.full_tokens) +
                    " full tokens");
    }
    if (rung.cache_slots > largest(m.kv.slots) && m.kv.keep.empty()) {
      out.push_back(at + ".cache_slots " + str(rung.cache_slots) + " exceeds $.kv.slots " +
                    str(largest(m.kv.slots)));
    }
    removed_problems(m.kv, rung, at, out);
    if (rung.cache_slots <= rung.budget + rung.prompt_tokens) {
      out.push_back(at + ".cache_slots " + str(rung.cache_slots) +
                    " leaves no room for an answer after " + str(rung.budget) + " visual and " +
                    str(rung.prompt_tokens) + " prompt tokens");
    }
  }
}

void model_problems(const Manifest& m, Found& out) {
  const auto& v = m.vision;
  // Up to 2^40 each: a double is exact enough to see that they differ, and does not overflow.
  const double tokens = static_cast<double>(v.grid[0]) * static_cast<double>(v.grid[1]) *
                            static_cast<double>(v.parts) * static_cast<double>(v.pictures) +
                        static_cast<double>(v.separators);
  if (tokens != static_cast<double>(v.full_tokens)) {
    out.push_back("$.vision.grid " + str(v.grid[0]) + " x " + str(v.grid[1]) + " is not full_tokens " +
                  str(v.full_tokens));
  }
  if (static_cast<std::int64_t>(m.kv.slots.size()) != m.kv.layers) {
    out.push_back("$.kv.slots has " + std::to_string(m.kv.slots.size()) + " entries for " +
                  str(m.kv.layers) + " layers");
  }
  if (largest(m.kv.slots) > limits::CACHE_SLOTS) {
    out.push_back("$.kv.slots " + str(largest(m.kv.slots)) + " exceeds the limit of " +
                  std::to_string(limits::CACHE_SLOTS));
  }
  if (std::max(v.height_px, v.width_px) > limits::IMAGE_SIDE_PIXELS) {
    out.push_back("$.vision: an image side exceeds " + std::to_string(limits::IMAGE_SIDE_PIXELS) + " pixels");
  }
  if (v.pictures > limits::PICTURES) {
    out.push_back("$.vision.pictures " + str(v.pictures) + " exceeds the limit of " +
                  std::to_string(limits::PICTURES));
  }
  if (std::max(largest(m.text.stop_ids), m.text.pad_id) >= m.text.vocabulary) {
    out.push_back("$.text: a stop or pad id is outside the vocabulary of " + str(m.text.vocabulary));
  }
}

bool stands_apart(const std::string& stage) {
  return stage == "compact" || stage == "segment" || stage == "exited";
}

void compaction_problems(const Manifest& m, Found& out) {
  const Kv& kv = m.kv;
  const auto kept = static_cast<std::int64_t>(kv.keep.size());
  bool frees = true;
  for (std::size_t i = 0; i < std::min(kv.keep.size(), kv.slots.size()); ++i) {
    frees = frees && kv.keep[i] < kv.slots[i];
  }
  if (kept != 0 && kept != kv.layers) {
    out.push_back("$.kv.keep has " + str(kept) + " entries for " + str(kv.layers) + " layers");
  } else if (!frees) {
    out.push_back("$.kv.keep " + format_list(kv.keep) + " frees no row of $.kv.slots " + format_list(kv.slots));
  }
  std::map<std::string, Integers> layers;
  if (kept != 0) layers["ort"];
  for (const auto& stage : m.stages) {
    if (stage.stage == "compact") layers[stage.flavour].push_back(stage.layer.value_or(-1));
    if (!stands_apart(stage.stage) && stage.layer) {
      out.push_back("$.stages: a graph that is not of compact, segment or exited has a layer");
    }
  }
  for (auto& [flavour, found] : layers) {
    std::sort(found.begin(), found.end());
    Integers each;
    for (std::int64_t i = 0; i < kept; ++i) each.push_back(i);
    if (found != each) {
      out.push_back("$.stages: " + flavour + " graphs of compact empty layers " + format_list(found) +
                    ", not each one once");
    }
  }
}

void exit_problems(const Manifest& m, Found& out) {
  Integers ends = m.exits;
  ends.push_back(m.kv.layers);
  const std::string exits = "$.prefill.exits " + format_list(m.exits);
  if (!rises(ends)) out.push_back(exits + " are not ascending layers below " + str(m.kv.layers));
  if (!m.exits.empty() && (m.prefill_method == "none" || !m.kv.keep.empty() || m.kv.ring != 0)) {
    out.push_back(exits + " go with a method, and with a cache that keeps every row");
  }
  const auto removes = [](const Rung& rung) { return largest(rung.removed) > 0; };
  if (!m.exits.empty() && std::any_of(m.ladder.begin(), m.ladder.end(), removes)) {
    out.push_back(exits + " and constant .removed are two rules for the same rows");
  }
  using Place = std::tuple<std::string, std::int64_t, std::int64_t>;  // stage, layer, budget or -1
  std::multiset<Place> wanted;
  for (const auto layer : m.exits) {
    for (const auto& rung : m.ladder) wanted.insert({"segment", layer, rung.budget});
    wanted.insert({"exited", layer, -1});
  }
  std::map<std::string, std::multiset<Place>> found;
  for (const auto& stage : m.stages) {
    auto& places = found[stage.flavour];
    if (stage.stage != "segment" && stage.stage != "exited") continue;
    places.insert({stage.stage, stage.layer.value_or(-1), stage.budget.value_or(-1)});
  }
  for (const auto& [flavour, places] : found) {
    if (places != wanted) {
      out.push_back("$.stages: " + flavour + " graphs of segment and exited do not fit exits " +
                    format_list(m.exits));
    }
  }
}

// Weights that graphs read as inputs are made by one graph of their flavour.
void unpack_problems(const Manifest& m, Found& out) {
  std::set<std::string> flavours;
  for (const auto& stage : m.stages) flavours.insert(stage.flavour);
  for (const auto& flavour : flavours) {
    std::int64_t makers = 0;
    bool alone = true;
    std::map<std::string, Tensor> made;
    std::set<std::string> missing;
    for (const auto& stage : m.stages) {
      if (stage.flavour != flavour || stage.stage != names::UNPACK) continue;
      ++makers;
      alone = alone && !stage.budget && stage.inputs.empty();
      for (const auto& tensor : stage.outputs) made[tensor.name] = tensor;
    }
    if (makers > 1 || !alone) {
      out.push_back("$.stages: " + flavour + " has " + str(makers) + " graphs of unpack, not one without inputs");
    }
    for (const auto& [name, tensor] : made) {
      if (is_unpacked(name) && tensor.dtype == "int8") continue;
      out.push_back("$.stages: unpack makes " + name + " of " + tensor.dtype + ", no int8 weight");
    }
    for (const auto& stage : m.stages) {
      if (stage.flavour != flavour) continue;
      for (const auto& tensor : stage.inputs) {
        if (!is_unpacked(tensor.name)) continue;
        const auto found = made.find(tensor.name);
        if (found == made.end() || !(found->second == tensor)) missing.insert(tensor.name);
      }
    }
    for (const auto& name : missing) {
      out.push_back("$.stages: no " + flavour + " graph of unpack makes " + name + " as it is read");
    }
  }
}

void ring_problems(const Manifest& m, Found& out) {
  const Kv& kv = m.kv;
  if (kv.filing != "none" && kv.ring == 0) {
    out.push_back("$.kv.filing " + kv.filing + " goes with a ring, and $.kv.ring is 0");
  }
  if (kv.ring != 0 && (!kv.keep.empty() || !are_equal(kv.slots))) {
    out.push_back("$.kv.slots " + format_list(kv.slots) + " and .keep " + format_list(kv.keep) +
                  ": a ring takes all rows alike");
  }
  if (kv.ring > largest(kv.slots)) {
    out.push_back("$.kv.ring " + str(kv.ring) + " exceeds $.kv.slots " + str(largest(kv.slots)));
  }
  if (kv.reuse == "rewind" && (kv.ring != 0 || !kv.keep.empty() || m.prefill_method != "none")) {
    out.push_back("$.kv.reuse rewind: rows that were packed, given up or taken away do not come back");
  }
}

std::set<std::string> input_names(const Stage& stage) {
  std::set<std::string> out;
  for (const auto& tensor : stage.inputs) out.insert(tensor.name);
  return out;
}

// Graphs of one stage that serve a rung are alike but for their rows.
void length_problems(const Manifest& m, const std::string& flavour, const std::string& name, Found& out) {
  if (!may_have_several(name)) return;
  for (const auto& rung : m.ladder) {
    const auto graphs = stages_of(m, name, rung.budget, flavour);
    if (graphs.size() < 2) continue;
    const std::string at = "$.stages: " + std::to_string(graphs.size()) + " " + flavour + " graphs of " + name +
                           " of rung " + str(rung.budget);
    Integers rows;
    std::set<std::set<std::string>> inputs;
    for (auto graph = graphs.rbegin(); graph != graphs.rend(); ++graph) {
      rows.push_back(count_rows(**graph));
      inputs.insert(input_names(**graph));
    }
    if (graphs.size() > static_cast<std::size_t>(limits::PROMPT_GRAPHS)) {
      out.push_back(at + ", more than " + std::to_string(limits::PROMPT_GRAPHS));
    }
    if (!rises(rows)) out.push_back(at + " take at most " + format_list(rows) + " rows, not each another number");
    if (inputs.size() > 1) out.push_back(at + " read other inputs");
    if (name != "prefill") continue;
    if (rows.front() <= rung.budget) {
      out.push_back(at + ": " + str(rows.front()) + " rows hold no text beside " + str(rung.budget) + " visual tokens");
    }
    if (rows.back() != rung.prefill_tokens()) {
      out.push_back(at + ": the longest has " + str(rows.back()) + " rows, not " + str(rung.budget) + " visual and " +
                    str(rung.prompt_tokens) + " prompt tokens");
    }
    if (!m.exits.empty()) out.push_back(at + ": a prefill in segments has one length");
  }
}

bool tokens_rise(const Scorer& scorer) {
  Integers ids;
  for (const auto& [token, weight] : scorer.tokens) ids.push_back(token);
  return rises(ids);
}

void controller_problems(const Manifest& m, Found& out) {
  if (!m.controller) return;
  Integers budgets;
  for (const auto& rule : m.controller->rules) budgets.push_back(rule.budget);
  budgets.push_back(m.controller->full);
  if (!rises(budgets)) {
    out.push_back("$.controller: budgets " + format_list(budgets) + " are not ascending and unique");
  }
  for (const auto budget : budgets) {
    if (m.rung(budget) == nullptr) {
      out.push_back("$.controller: [" + str(budget) + "] are no rungs of $.ladder");
    }
  }
  for (const auto& rule : m.controller->rules) {
    if (!tokens_rise(rule.enter) || !tokens_rise(rule.accept)) {
      out.push_back("$.controller: tokens of rung " + str(rule.budget) + " are not ascending and unique");
    }
  }
  const auto& thumbnail = m.controller->thumbnail;
  if (thumbnail && static_cast<std::int64_t>(thumbnail->weights.size()) != 2 * thumbnail->cells * thumbnail->cells) {
    out.push_back("$.controller.thumbnail: " + std::to_string(thumbnail->weights.size()) + " weights for " +
                  str(thumbnail->cells) + " cells a side");
  }
  if (m.controller->bundle_sha256 != m.digest) {
    out.push_back("$.controller.certificate was issued for another bundle than this one; "
                  "run `edgetok calibrate` on this bundle");
  }
}

}  // namespace

bool rises(const Integers& values) {
  return std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
}

Integers budgets_of(const Manifest& m) {
  Integers out;
  for (const auto& rung : m.ladder) out.push_back(rung.budget);
  return out;
}

void file_problems(const Manifest& m, const std::vector<std::string>& needed, Found& out) {
  double total = 0;
  for (const auto& [path, file] : m.files) {
    total += static_cast<double>(file.bytes);
    try {
      require_safe_path(path);
    } catch (const Error& error) {
      out.push_back(std::string("$.files: ") + error.what());
    }
  }
  if (m.files.count("manifest.json") != 0) {
    out.push_back("$.files lists manifest.json, which cannot hold its own hash");
  }
  if (m.files.size() > limits::BUNDLE_FILES) {
    out.push_back("$.files: " + std::to_string(m.files.size()) + " files, more than " +
                  std::to_string(limits::BUNDLE_FILES));
  }
  if (total > static_cast<double>(limits::BUNDLE_BYTES)) {
    out.push_back("$.files: more than " + std::to_string(limits::BUNDLE_BYTES) + " bytes together");
  }
  for (const auto& path : needed) {
    if (m.files.count(path) == 0) out.push_back("$.files does not list " + path);
  }
  for (std::size_t i = 0; i < m.stages.size(); ++i) {
    if (m.files.count(m.stages[i].file) != 0) continue;
    out.push_back("$.stages[" + std::to_string(i) + "].file `" + shorten(m.stages[i].file) +
                  "` is not listed in $.files");
  }
}

void tensor_problems(const Stage& stage, Found& out) {
  const std::string budget = stage.budget ? str(*stage.budget) : "None";
  for (const auto* tensors : {&stage.inputs, &stage.outputs}) {
    std::map<std::string, int> counts;
    for (const auto& tensor : *tensors) ++counts[tensor.name];
    for (const auto& [name, count] : counts) {
      if (count < 2) continue;
      out.push_back(stage.stage + " of rung " + budget + ": tensor " + name + " is listed twice");
    }
  }
}

void serving_problems(const Manifest& m, const std::string& flavour, const std::string& name, Found& out) {
  std::map<std::int64_t, int> own;
  int shared = 0;
  for (const auto& stage : m.stages) {
    if (stage.flavour != flavour || stage.stage != name) continue;
    if (stage.budget) ++own[*stage.budget];
    if (!stage.budget) ++shared;
  }
  const auto listed = budgets_of(m);
  const std::set<std::int64_t> budgets(listed.begin(), listed.end());
  for (const auto budget : budgets) {
    const int graphs = (own.count(budget) != 0 ? own[budget] : 0) + shared;
    if (graphs == 1 || (graphs != 0 && may_have_several(name))) continue;  // see length_problems
    out.push_back("$.stages: rung " + str(budget) + " has " + std::to_string(graphs) + " " + flavour +
                  " graphs of " + name + ", not 1");
  }
  for (const auto& [budget, count] : own) {
    if (budgets.count(budget) != 0) continue;
    out.push_back("$.stages: " + name + " serves rung " + str(budget) + ", which is none of $.ladder");
  }
}

std::vector<std::string> find_contradictions(const Manifest& m) {
  Found out;
  ladder_problems(m, out);
  model_problems(m, out);
  file_problems(m, {"processor/image.json", "processor/prompt.json", "processor/tokenizer.json"}, out);
  compaction_problems(m, out);
  ring_problems(m, out);
  exit_problems(m, out);
  unpack_problems(m, out);
  controller_problems(m, out);
  for (const auto& stage : m.stages) {
    tensor_problems(stage, out);
    if (stage.stage == "encode" || stage.stage == "describe") {
      out.push_back("$.stages: " + stage.stage + " belongs to bundles of encoders");
    }
  }
  for (const auto& name : shared_stages(m)) {
    serving_problems(m, "ort", name, out);
    length_problems(m, "ort", name, out);
  }
  std::set<std::string> spelled;
  for (const auto& stage : m.stages) {
    if (stage.flavour == "portable" && !stands_apart(stage.stage)) spelled.insert(stage.stage);
  }
  for (const auto& name : spelled) {
    serving_problems(m, "portable", name, out);
    length_problems(m, "portable", name, out);
  }
  return out;
}

}  // namespace edgetok_impl
