#include "runtime/interface.hpp"

#include <algorithm>

#include "bundle/buffers.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

struct Place {
  std::string dtype;
  std::optional<Shape> shape;  // none: any
};
using Side = std::map<std::string, Place>;  // by name

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

Place lengths_of(const Manifest& m) { return {"int32", Shape{m.kv.layers}}; }
Place logits_of(const Manifest& m) { return {"float32", Shape{1, m.text.vocabulary}}; }

// What compress adds to visual rows after the first layers, of some whole rows; often nothing.
Side deep_of(const Served& at) {
  const Tensor* deep = find(at.compress.outputs, names::VISUAL_DEEP);
  if (deep == nullptr) return {};
  const std::int64_t hidden = at.manifest.text.hidden;
  const std::int64_t layers = deep->shape.empty() ? 1 : std::max<std::int64_t>(1, deep->shape.back() / hidden);
  return {{names::VISUAL_DEEP, {"float32", Shape{at.rung.budget, layers * hidden}}}};
}

Expected expect_tower(const Served& at) {
  const Vision& vision = at.manifest.vision;
  Expected e;
  e.inputs[names::PIXELS] = {"float32", Shape{vision.parts, 3, vision.height_px, vision.width_px}};
  e.outputs[names::FEATURES] = {"float32", std::nullopt};
  for (const auto& tensor : at.stage.outputs) {
    if (is_signal_name(tensor.name)) e.outputs[tensor.name] = {"float32", Shape{1}};
  }
  return e;
}

// It reads what the tower wrote of all pictures and the request, so those are its only possible inputs.
Expected expect_compress(const Served& at) {
  const std::int64_t pictures = at.manifest.vision.pictures, hidden = at.manifest.text.hidden;
  Side offered;
  for (const auto& tensor : at.tower.outputs) {
    if (tensor.shape.empty()) continue;
    Shape shape = tensor.shape;
    if (__builtin_mul_overflow(pictures, shape[0], &shape[0])) shape[0] = INT64_MAX;  // no tensor has so many
    offered[tensor.name] = {tensor.dtype, shape};
  }
  offered[names::PICTURE_WEIGHTS] = {"float32", Shape{pictures}};
  offered[names::TEXT_EMBEDS] = {"float32", Shape{at.rung.prompt_tokens, hidden}};
  offered[names::TEXT_MASK] = {"float32", Shape{at.rung.prompt_tokens}};
  Expected e;
  for (const auto& tensor : at.stage.inputs) {
    if (offered.count(tensor.name) != 0) e.inputs[tensor.name] = offered[tensor.name];
  }
  e.outputs = deep_of(at);
  e.outputs[names::VISUAL_TOKENS] = {"float32", Shape{at.rung.budget, hidden}};
  e.outputs[names::KEPT] = {"int64", Shape{at.rung.budget}};
  e.outputs[names::SIZES] = {"float32", Shape{at.rung.budget}};
  return e;
}

Expected expect_embed(const Served& at) {
  Expected e;
  e.inputs[names::TOKEN_IDS] = {"int64", Shape{at.rung.prompt_tokens}};
  e.outputs[names::TEXT_EMBEDS] = {"float32", Shape{at.rung.prompt_tokens, at.manifest.text.hidden}};
  return e;
}

// Of a prefill graph: those of the rung's prompts, unless a longer graph has them.
std::int64_t rows_of(const Served& at) {
  const auto alike = stages_of(at.manifest, at.stage.stage, at.rung.budget, at.stage.flavour);
  const std::int64_t own = count_rows(at.stage);
  return own < count_rows(*alike.front()) ? own : at.rung.prefill_tokens();
}

Expected expect_prefill(const Served& at) {
  Side optional = deep_of(at);
  optional[names::VISUAL_START] = {"int64", Shape{1}};
  optional[names::VISUAL_KEPT] = {"int64", Shape{at.rung.budget}};
  Expected e;
  for (const auto& [name, place] : optional) {
    if (find(at.stage.inputs, name) != nullptr) e.inputs[name] = place;
  }
  e.inputs[names::INPUT_EMBEDS] = {"float32", Shape{1, rows_of(at), at.manifest.text.hidden}};
  e.inputs[names::LAST_ROW] = {"int64", Shape{1}};
  e.inputs[names::PAST_LENGTHS] = lengths_of(at.manifest);
  e.outputs[names::LOGITS] = logits_of(at.manifest);
  return e;
}

// A graph of a prefill in segments: rows before its layers, and those after them.
Expected expect_segment(const Served& at) {
  const Manifest& m = at.manifest;
  const auto [first, stop] = layers_of(m, at.stage);
  const bool is_last = stop == m.kv.layers, exited = at.stage.stage == names::EXITED;
  const Place rows{"float32", Shape{1, at.rung.prefill_tokens(), m.text.hidden}};
  const Place of_text{"float32", Shape{1, at.rung.prompt_tokens, m.text.hidden}};
  Expected e;
  e.inputs[names::PAST_LENGTHS] = lengths_of(m);
  if (exited) {
    e.inputs[layered("text_rows", first)] = of_text;
    e.inputs[names::TEXT_POSITIONS] = {"int64", Shape{at.rung.prompt_tokens}};
  } else {
    e.inputs[first != 0 ? layered("rows", first) : names::INPUT_EMBEDS] = rows;
  }
  if (!exited || is_last) e.inputs[names::LAST_ROW] = {"int64", Shape{1}};
  if (!exited && !is_last) e.inputs[names::VISUAL_START] = {"int64", Shape{1}};
  if (is_last) {
    e.outputs[names::LOGITS] = logits_of(m);
    return e;
  }
  e.outputs[layered("text_rows", stop)] = of_text;
  if (exited) return e;
  e.outputs[layered("rows", stop)] = rows;
  e.outputs[names::EXIT_SIGNAL] = {"float32", Shape{1}};
  return e;
}

// Any number of rows that fits into every layer.
Expected expect_extend(const Served& at) {
  const Manifest& m = at.manifest;
  const Tensor* chunk = find(at.stage.inputs, names::CHUNK_EMBEDS);
  std::int64_t rows = chunk != nullptr && chunk->shape.size() == 3 ? chunk->shape[1] : 1;
  for (const auto slots : m.kv.slots) rows = std::min(rows, slots);
  rows = std::max<std::int64_t>(1, rows);
  Expected e;
  e.inputs[names::CHUNK_EMBEDS] = {"float32", Shape{1, rows, m.text.hidden}};
  e.inputs[names::PAST_LENGTHS] = lengths_of(m);
  e.inputs[names::CHUNK_POSITIONS] = {"int64", Shape{m.kv.layers, rows}};
  e.outputs[names::LOGITS] = logits_of(m);
  return e;
}

Expected expect_decode(const Served& at) {
  Expected e;
  e.inputs[names::TOKEN_ID] = {"int64", Shape{1, 1}};
  e.inputs[names::PAST_LENGTHS] = lengths_of(at.manifest);
  e.inputs[names::POSITIONS] = {"int64", Shape{at.manifest.kv.layers, 1}};
  e.outputs[names::LOGITS] = logits_of(at.manifest);
  return e;
}

Expected expect(const Served& at) {
  const std::string& stage = at.stage.stage;
  if (stage == "tower") return expect_tower(at);
  if (stage == "compress") return expect_compress(at);
  if (stage == "embed") return expect_embed(at);
  if (stage == "prefill" && at.manifest.exits.empty()) return expect_prefill(at);
  if (stage == "prefill" || stage == names::SEGMENT || stage == names::EXITED) return expect_segment(at);
  if (stage == names::EXTEND) return expect_extend(at);
  if (stage == "decode") return expect_decode(at);
  return {};  // flush and compact see the cache alone
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
                     [](const Stage& s) { return s.stage == "tower" && s.budget; });
}

void require_interface(const Served& at) {
  const Expected expected = expect(at);
  std::vector<std::string> problems;
  find_misfits("input", at.stage.inputs, expected.inputs, problems);
  find_misfits("output", at.stage.outputs, expected.outputs, problems);
  for (const auto& tensor : at.stage.inputs) {
    if (expected.inputs.count(tensor.name) == 0 && !is_buffer(tensor.name) && !is_unpacked(tensor.name)) {
      problems.push_back("input " + tensor.name + " is one that nothing feeds");
    }
  }
  if (problems.size() > 8) problems.resize(8);
  if (!problems.empty()) throw bundle_error(at.stage.file + ": " + join(problems, "; ") + "; export again");
}

}  // namespace edgetok_impl
