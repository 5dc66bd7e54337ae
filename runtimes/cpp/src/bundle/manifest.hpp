// The manifest: what a bundle says about itself; docs/bundle-format.md describes it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle/value.hpp"

namespace edgetok_impl {

using Shape = std::vector<std::int64_t>;
using Signals = std::map<std::string, double>;

struct Tensor {
  std::string name;
  std::string dtype;
  Shape shape;

  bool operator==(const Tensor& o) const { return name == o.name && dtype == o.dtype && shape == o.shape; }
};

struct Stage {
  std::string stage;
  std::optional<std::int64_t> budget;
  std::string flavour;
  std::string file;
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
  std::optional<std::int64_t> layer;
};

struct Rung {
  std::int64_t budget = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t cache_slots = 0;
  std::vector<std::int64_t> removed;
  std::int64_t shift = 0;

  std::int64_t prefill_tokens() const { return budget + prompt_tokens; }
  std::int64_t new_tokens() const { return cache_slots - prefill_tokens(); }
};

struct Kv {
  std::int64_t layers = 0, kv_heads = 0, head_dim = 0;
  std::vector<std::int64_t> slots;
  std::string policy, positions;
  std::string reuse;    // rewind, append or nothing
  bool extends = false;
  std::string filing;   // of a full ring: none, groups or tiers
  std::int64_t ring = 0;
  std::vector<std::int64_t> keep;
};

struct Text {
  std::int64_t hidden = 0, vocabulary = 0, max_positions = 0;
  std::vector<std::int64_t> stop_ids;
  std::int64_t pad_id = 0;
};

// What the checkpoint asks of generation; see Generation in edgetok/bundle/manifest.py.
struct Generation {
  double repetition_penalty = 1;
  std::int64_t no_repeat_ngram_size = 0, min_length = 0, min_new_tokens = 0;
  std::vector<std::int64_t> suppress_ids, begin_suppress_ids;
  std::int64_t top_k = 0;
  double top_p = 1;
  std::optional<std::int64_t> image_id;  // what stands in the prompt for each visual token
};

struct Vision {
  std::int64_t height_px = 0, width_px = 0;
  std::vector<std::int64_t> grid;
  std::int64_t full_tokens = 0, parts = 1, separators = 0, pictures = 1;
};

struct File {
  std::int64_t bytes = 0;
  std::string sha256;
};

// A weighted sum over signals and the tokens of a question.
struct Scorer {
  double bias = 0;
  Signals signals;
  double per_token = 0;
  std::vector<std::pair<std::int64_t, double>> tokens;
};

struct Rule {
  std::int64_t budget = 0;
  Scorer enter;
  double enter_at_most = 0;
  Scorer accept;
  double accept_at_most = 0;
};

// A decision that every reader must repeat.
struct Case {
  Signals signals;
  std::vector<std::int64_t> question;
  std::vector<Signals> answers;
  std::vector<std::int64_t> budgets;
};

// A signal from cells of the picture's thumbnail.
struct Thumbnail {
  std::int64_t cells = 0;
  double bias = 0;
  std::vector<double> weights;
};

struct Controller {
  std::vector<Rule> rules;
  std::int64_t full = 0;
  double risk = 0, confidence = 0;
  std::string bundle_sha256, flavour;
  std::vector<Case> cases;
  std::optional<Thumbnail> thumbnail;
};

// How a cosine becomes a score: scale * cosine + bias, then softmax over the texts or a sigmoid of each.
struct Similarity {
  double scale = 1, bias = 0;
  std::string kind;
};

struct TextSide {
  std::int64_t tokens = 0;  // of every text, padded
  Similarity similarity;
};

// Of a bundle without a language model.
struct EncoderSide {
  std::string task;
  Tensor output;
  std::vector<std::string> labels;
  std::optional<TextSide> text;
  std::string scores;  // what logits of classes become: softmax, sigmoid or none
};

struct Manifest {
  std::string producer, family, method;
  std::vector<Rung> ladder;
  std::string weights, kv_precision;
  std::string prefill_method;
  std::vector<std::int64_t> exits;
  Kv kv;
  Text text;
  Vision vision;
  Generation generation;
  std::vector<Stage> stages;
  std::map<std::string, File> files;
  std::optional<Controller> controller;
  std::optional<EncoderSide> encoder;  // none: the bundle answers; else `kv`, `text` and the like are empty
  std::string digest;  // sha256 of the manifest without its controller

  const Rung* rung(std::int64_t budget) const;
};

// Decodes and checks manifest.json; throws Error(bundle).
Manifest parse_manifest(const std::string& bytes);

// Everything in a well-formed manifest that contradicts itself, each in a sentence.
std::vector<std::string> find_contradictions(const Manifest& manifest);

// The same of the manifest of an encoder.
std::vector<std::string> find_encoder_contradictions(const Manifest& manifest);

// Rows of the prompt or chunk that a graph takes at most, by its own shapes; else 0. They tell the graphs
// apart that a rung has of one stage.
std::int64_t count_rows(const Stage& stage);

// Whether a rung may have several graphs of a stage, for so many rows at most.
bool may_have_several(const std::string& stage);

// The graphs of a stage and flavour that serve a rung, the longest first.
std::vector<const Stage*> stages_of(const Manifest& manifest, const std::string& stage, std::int64_t budget,
                                    const std::string& flavour);

// The stages of which every rung finds a graph.
std::vector<std::string> shared_stages(const Manifest& manifest);

// Whether a file of the bundle holds weights, and how much all of them hold.
bool is_weights(const std::string& path);
std::int64_t weights_bytes(const Manifest& manifest);

}  // namespace edgetok_impl
