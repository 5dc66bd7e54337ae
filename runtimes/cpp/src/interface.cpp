#include "interface.hpp"

#include <algorithm>

#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

struct Place {
  std::string dtype;
  std::optional<Shape> shape;  // none: any
};
using Side = std::map<std::string, Place>;

struct Expected {
  Side inputs, outputs;
};

std::string layered(const char* name, std::int64_t layer) {
  return std::string(name) + "_" + std::to_string(layer);
}

const Tensor* find(const std::vector<Tensor>& tensors, const std::string& name) {
  for (const auto& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

bool is_signal_name(const std::string& name) { return name.rfind("signal_", 0) == 0; }

// So many rows of a layer: dtype and shape of a key or value.
Place rows_of(const Manifest& m, std::int64_t rows, const std::string& flavour) {
  const auto& kv = m.kv;
  if (m.kv_precision == "fp32") return {"float32", Shape{1, kv.kv_heads, rows, kv.head_dim}};
  if (m.kv_precision == "int8") return {"int8", Shape{1, kv.kv_heads, rows, kv.head_dim}};
  return {flavour == "ort" ? "uint8" : "int8", Shape{1, kv.kv_heads, rows, kv.head_dim / 2}};
}

bool has_slot_scales(const Manifest& m, const std::string& flavour) {
  return flavour == "portable" && m.kv_precision != "fp32";
}

// Buffers of one layer that hold so many rows, by `prefix`: past, present or kept.
Side layer_of(const Manifest& m, std::int64_t rows, const std::string& flavour, const std::string& prefix,
              const std::string& suffix) {
  const Place row = rows_of(m, rows, flavour);
  Side out = {{prefix + "_key" + suffix, row}, {prefix + "_value" + suffix, row}};
  if (has_slot_scales(m, flavour)) {
    const Place scale{"float32", Shape{1, m.kv.kv_heads, rows, 1}};
    out[prefix + "_key_scale" + suffix] = scale;
    out[prefix + "_value_scale" + suffix] = scale;
  }
  if (!m.kv.planes.empty()) {
    const auto planes = static_cast<std::int64_t>(m.kv.planes.size());
    out[prefix + "_state" + suffix] = {"float32", Shape{planes, m.kv.kv_heads, rows}};
  }
  return out;
}

Side cache_of(const Manifest& m, const std::string& flavour, const std::string& prefix) {
  Side out;
  for (std::int64_t layer = 0; layer < m.kv.layers; ++layer) {
    out.merge(layer_of(m, m.kv.slots[static_cast<std::size_t>(layer)], flavour, prefix, layered("", layer)));
  }
  return out;
}

Side deep_of(const Manifest& m, const Rung& rung) {
  if (m.text.deep == 0) return {};
  return {{names::VISUAL_DEEP, {"float32", Shape{rung.budget, m.text.deep * m.text.hidden}}}};
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

// It reads what the tower wrote and the prompt, so those are its only possible inputs.
Expected expect_compress(const Manifest& m, const Stage& stage, const Rung& rung, const Stage& tower) {
  Side offered;
  for (const auto& tensor : tower.outputs) offered[tensor.name] = {tensor.dtype, tensor.shape};
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
  if (m.kv.keep.empty()) e.inputs.merge(cache_of(m, stage.flavour, "past"));  // a policy's begins afresh
  e.outputs = cache_of(m, stage.flavour, "present");
  e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
  return e;
}

// Any number of rows that fits into every layer.
Expected expect_extend(const Manifest& m, const Stage& stage) {
  const Tensor* chunk = find(stage.inputs, names::CHUNK_EMBEDS);
  std::int64_t rows = chunk != nullptr && chunk->shape.size() == 3 ? chunk->shape[1] : 1;
  for (const auto slots : m.kv.slots) rows = std::min(rows, slots);
  rows = std::max<std::int64_t>(1, rows);
  Expected e;
  e.inputs = cache_of(m, stage.flavour, "past");
  e.inputs[names::CHUNK_EMBEDS] = {"float32", Shape{1, rows, m.text.hidden}};
  e.inputs[names::PAST_LENGTHS] = {"int32", Shape{m.kv.layers}};
  e.inputs[names::CHUNK_POSITIONS] = {"int64", Shape{m.kv.layers, rows}};
  e.outputs = cache_of(m, stage.flavour, "present");
  e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
  return e;
}

Expected expect_decode(const Manifest& m, const Stage& stage) {
  Expected e;
  e.inputs = cache_of(m, stage.flavour, "past");
  e.inputs[names::TOKEN_ID] = {"int64", Shape{1, 1}};
  e.inputs[names::PAST_LENGTHS] = {"int32", Shape{m.kv.layers}};
  e.inputs[names::POSITIONS] = {"int64", Shape{m.kv.layers, 1}};
  e.outputs = cache_of(m, stage.flavour, "present");
  e.outputs[names::LOGITS] = {"float32", Shape{1, m.text.vocabulary}};
  return e;
}

Expected expect_compact(const Manifest& m, const Stage& stage) {
  const auto layer = static_cast<std::size_t>(stage.layer.value_or(0));
  const std::string suffix = layered("", stage.layer.value_or(0));
  Expected e;
  e.inputs = layer_of(m, m.kv.slots[layer], stage.flavour, "past", suffix);
  e.outputs = layer_of(m, m.kv.keep[layer], stage.flavour, "kept", "");
  return e;
}

Expected expect(const Manifest& m, const Stage& stage, const Rung& rung, const Stage& tower) {
  if (stage.stage == "tower") return expect_tower(m, stage);
  if (stage.stage == "compress") return expect_compress(m, stage, rung, tower);
  if (stage.stage == "prefill") return expect_prefill(m, stage, rung);
  if (stage.stage == names::EXTEND) return expect_extend(m, stage);
  if (stage.stage == "decode") return expect_decode(m, stage);
  if (stage.stage == "compact") return expect_compact(m, stage);
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
