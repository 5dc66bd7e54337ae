#include "interface.hpp"

#include <algorithm>

#include "error.hpp"
#include "generated.hpp"
#include "places.hpp"
#include "rings.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

struct Expected {
  Side inputs, outputs;
};

const Tensor* find(const std::vector<Tensor>& tensors, const std::string& name) {
  for (const auto& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

bool is_signal_name(const std::string& name) { return name.rfind("signal_", 0) == 0; }

Side deep_of(const Manifest& m, const Rung& rung) {
  if (m.text.deep == 0) return {};
  return {{names::VISUAL_DEEP, {"float32", Shape{rung.budget, product(m.text.deep, m.text.hidden)}}}};
}

Expected expect_tower(const Manifest& m, const Stage& stage) {
  Expected e;
  e.inputs[names::PIXELS] = {"float32", Shape{m.vision.parts, 3, m.vision.height_px, m.vision.width_px}};
  e.outputs[names::FEATURES] = {"float32", std::nullopt};
  for (const auto& tensor : stage.outputs) {
    if (is_signal_name(tensor.name)) e.outputs[tensor.name] = {"float32", Shape{1}};
  }
  return e;
}

// It reads what the tower wrote of all pictures and the request, so those are its only possible inputs.
Expected expect_compress(const Manifest& m, const Stage& stage, const Rung& rung, const Stage& tower) {
  Side offered;
  for (const auto& tensor : tower.outputs) {
    if (tensor.shape.empty()) continue;
    Shape shape = tensor.shape;
    shape[0] = product(m.vision.pictures, shape[0]);
    offered[tensor.name] = {tensor.dtype, shape};
  }
  offered[names::PICTURE_WEIGHTS] = {"float32", Shape{m.vision.pictures}};
  offered[names::TEXT_EMBEDS] = {"float32", Shape{rung.prompt_tokens, m.text.hidden}};
  offered[names::TEXT_MASK] = {"float32", Shape{rung.prompt_tokens}};
  Expected e;
  for (const auto& tensor : stage.inputs) {
    if (offered.count(tensor.name) != 0) e.inputs[tensor.name] = offered[tensor.name];
  }
  e.outputs = deep_of(m, rung);
  e.outputs[names::VISUAL_TOKENS] = {"float32", Shape{rung.budget, m.text.hidden}};
  e.outputs[names::KEPT] = {"int64", Shape{rung.budget}};
  e.outputs[names::SIZES] = {"float32", Shape{rung.budget}};
  return e;
}

Expected expect_prefill(const Manifest& m, const Stage& stage, const Rung& rung) {
  Expected e;
  e.inputs[names::INPUT_EMBEDS] = {"float32", Shape{1, rung.prefill_tokens(), m.text.hidden}};
  e.inputs[names::LAST_ROW] = {"int64", Shape{1}};
  e.inputs[names::PAST_LENGTHS] = {"int32", Shape{m.kv.layers}};
  if (m.text.axes == 3) {
    e.inputs[names::VISUAL_KEPT] = {"int64", Shape{rung.budget}};
    e.inputs.merge(deep_of(m, rung));
  }
  const bool told = find(stage.inputs, names::VISUAL_START) != nullptr;
  const bool sees_image = m.text.sees_ahead == "image" || m.text.axes == 3;
  if (m.prefill_method != "none" || sees_image || (!m.kv.keep.empty() && told)) {
    e.inputs[names::VISUAL_START] = {"int64", Shape{1}};
  }
  if (m.kv.keep.empty() && m.kv.ring == 0) {  // a policy's, or that of a ring, begins with an empty one
    e.inputs.merge(cache_places(m, stage.flavour, "past"));
    for (const auto& [name, place] : convolution_places(m, "past")) e.inputs.erase(name);
  }
  e.outputs = cache_places(m, stage.flavour, "present");
  e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
  return e;
}

// What a step writes of the buffers: of a cache with a ring only some.
Side written_places(const Manifest& m, const std::string& flavour) {
  const auto rings = ring_shape(m);
  Side all = cache_places(m, flavour, "present");
  if (!rings) return all;
  Side out;
  for (std::int64_t layer = 0; layer < m.kv.layers; ++layer) {
    for (const auto& kind : rings->written) {
      const std::string name = layered("present_" + kind, layer);
      out[name] = all[name];
    }
  }
  return out;
}

// Any number of rows that fits into every layer.
Expected expect_extend(const Manifest& m, const Stage& stage) {
  const Tensor* chunk = find(stage.inputs, names::CHUNK_EMBEDS);
  std::int64_t rows = chunk != nullptr && chunk->shape.size() == 3 ? chunk->shape[1] : 1;
  for (const auto slots : m.kv.slots) rows = std::min(rows, slots);
  rows = std::max<std::int64_t>(1, rows);
  Expected e;
  e.inputs = cache_places(m, stage.flavour, "past");
  e.inputs[names::CHUNK_EMBEDS] = {"float32", Shape{1, rows, m.text.hidden}};
  e.inputs[names::PAST_LENGTHS] = {"int32", Shape{m.kv.layers}};
  e.inputs[names::CHUNK_POSITIONS] = {"int64", Shape{m.kv.layers, rows}};
  e.outputs = cache_places(m, stage.flavour, "present");
  e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
  return e;
}

Expected expect_decode(const Manifest& m, const Stage& stage) {
  Expected e;
  e.inputs = cache_places(m, stage.flavour, "past");
  e.inputs[names::TOKEN_ID] = {"int64", Shape{1, 1}};
  e.inputs[names::PAST_LENGTHS] = {"int32", Shape{m.kv.layers}};
  e.inputs[names::POSITIONS] = {"int64", Shape{m.kv.layers, 1}};
  e.outputs = written_places(m, stage.flavour);
  e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
  return e;
}

Expected expect_compact(const Manifest& m, const Stage& stage) {
  const auto layer = static_cast<std::size_t>(stage.layer.value_or(0));
  const std::string suffix = layered("", stage.layer.value_or(0));
  Expected e;
  e.inputs = layer_places(m, m.kv.slots[layer], stage.flavour, "past", suffix);
  e.outputs = layer_places(m, m.kv.keep[layer], stage.flavour, "kept", "");
  return e;
}

Expected expect_flush(const Manifest& m) {
  Expected e;
  const auto rings = ring_shape(m);
  for (std::int64_t layer = 0; rings && layer < m.kv.layers; ++layer) {
    for (const auto& kind : rings->waiting) e.inputs[layered("past_" + kind, layer)] = rings->buffers.at(kind);
    for (const auto& [kind, place] : rings->group) e.outputs[layered("flushed_" + kind, layer)] = place;
  }
  return e;
}

// The buffers of layers from `first` on, in front of `stop`.
Side of_layers(const Side& all, std::int64_t first, std::int64_t stop) {
  Side out;
  for (std::int64_t layer = first; layer < stop; ++layer) {
    const std::string end = layered("", layer);
    for (const auto& [name, place] : all) {
      const bool ends = name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
      if (ends) out[name] = place;
    }
  }
  return out;
}

// A graph of a prefill in segments: its rows, its layers' buffers, and what comes behind.
Expected expect_segment(const Manifest& m, const Stage& stage, const Rung& rung) {
  const std::int64_t first = stage.layer.value_or(0);
  const auto behind = std::upper_bound(m.exits.begin(), m.exits.end(), first);
  const bool is_last = behind == m.exits.end(), exited = stage.stage == "exited";
  const std::int64_t stop = is_last ? m.kv.layers : *behind;
  const Place rows{"float32", Shape{1, rung.prefill_tokens(), m.text.hidden}};
  const Place of_text{"float32", Shape{1, rung.prompt_tokens, m.text.hidden}};
  Expected e;
  e.inputs = of_layers(cache_places(m, stage.flavour, "past"), first, stop);
  e.outputs = of_layers(cache_places(m, stage.flavour, "present"), first, stop);
  e.inputs[names::PAST_LENGTHS] = {"int32", Shape{m.kv.layers}};
  if (exited) {
    e.inputs[layered("text_rows", first)] = of_text;
    e.inputs[names::TEXT_POSITIONS] = {"int64", Shape{rung.prompt_tokens}};
  } else {
    e.inputs[first != 0 ? layered("rows", first) : names::INPUT_EMBEDS] = rows;
  }
  if (!exited || is_last) e.inputs[names::LAST_ROW] = {"int64", Shape{1}};
  if (!exited && !is_last) e.inputs[names::VISUAL_START] = {"int64", Shape{1}};
  if (is_last) {
    e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
    return e;
  }
  e.outputs[layered("text_rows", stop)] = of_text;
  if (exited) return e;
  e.outputs[layered("rows", stop)] = rows;
  e.outputs[names::EXIT_SIGNAL] = {"float32", Shape{1}};
  return e;
}

Expected expect(const Manifest& m, const Stage& stage, const Rung& rung, const Stage& tower) {
  const bool in_segments = stage.stage == "prefill" && !m.exits.empty();
  if (in_segments || stage.stage == "segment" || stage.stage == "exited") return expect_segment(m, stage, rung);
  if (stage.stage == "tower") return expect_tower(m, stage);
  if (stage.stage == "compress") return expect_compress(m, stage, rung, tower);
  if (stage.stage == "prefill") return expect_prefill(m, stage, rung);
  if (stage.stage == names::EXTEND) return expect_extend(m, stage);
  if (stage.stage == "decode") return expect_decode(m, stage);
  if (stage.stage == "compact") return expect_compact(m, stage);
  if (stage.stage == "flush") return expect_flush(m);
  Expected e;  // embed
  e.inputs[names::TOKEN_IDS] = {"int64", Shape{rung.prompt_tokens}};
  e.outputs[names::TEXT_EMBEDS] = {"float32", Shape{rung.prompt_tokens, m.text.hidden}};
  return e;
}

void find_misfits(const char* side, const std::vector<Tensor>& tensors, const Side& expected,
                  std::vector<std::string>& out) {
  for (const auto& [name, place] : expected) {
    const Tensor* tensor = find(tensors, name);
    const std::string what = std::string(side) + " " + name;
    if (tensor == nullptr) {
      out.push_back(what + " is missing");
    } else if (tensor->dtype != place.dtype || (place.shape && tensor->shape != *place.shape)) {
      out.push_back(what + " is " + tensor->dtype + " " + format_list(tensor->shape) + ", not " + place.dtype +
                    " " + (place.shape ? format_list(*place.shape) : "any shape"));
    }
  }
}

}  // namespace

bool has_tower_per_rung(const Manifest& m) {
  return std::any_of(m.stages.begin(), m.stages.end(),
                     [](const Stage& s) { return s.stage == "tower" && s.bucket; });
}

std::string replaced_by(const std::string& output, std::int64_t layer) {
  return "past" + output.substr(4) + layered("", layer);  // kept_key -> past_key_3
}

void require_interface(const Manifest& m, const Stage& stage, const Rung& rung, const Stage& tower) {
  const Expected expected = expect(m, stage, rung, tower);
  std::vector<std::string> problems;
  find_misfits("input", stage.inputs, expected.inputs, problems);
  find_misfits("output", stage.outputs, expected.outputs, problems);
  for (const auto& tensor : stage.inputs) {
    if (expected.inputs.count(tensor.name) == 0) {
      problems.push_back("input " + tensor.name + " is one that nothing feeds");
    }
  }
  if (problems.size() > 8) problems.resize(8);
  if (!problems.empty()) throw bundle_error(stage.file + ": " + join(problems, "; ") + "; export again");
}

}  // namespace edgetok_impl
