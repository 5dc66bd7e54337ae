#include "bundle/manifest.hpp"

#include <algorithm>

#include "bundle/hash.hpp"
#include "bundle/schema.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

const char kFile[] = "manifest.json";

std::vector<std::int64_t> integers(const Value& value) {
  std::vector<std::int64_t> out;
  for (const auto& item : value.list()) out.push_back(item.integer());
  return out;
}

std::optional<std::int64_t> maybe_integer(const Value& value) {
  return value.is_null() ? std::nullopt : std::optional(value.integer());
}

std::vector<Tensor> tensors(const Value& value) {
  std::vector<Tensor> out;
  for (const auto& item : value.list()) {
    out.push_back({item.at("name").text(), item.at("dtype").text(), integers(item.at("shape"))});
  }
  return out;
}

Stage to_stage(const Value& v) {
  return {v.at("stage").text(),      maybe_integer(v.at("budget")), v.at("flavour").text(),
          v.at("file").text(),       tensors(v.at("inputs")),       tensors(v.at("outputs")),
          maybe_integer(v.at("layer"))};
}

Rung to_rung(const Value& v) {
  return {v.at("budget").integer(), v.at("prompt_tokens").integer(), v.at("cache_slots").integer(),
          integers(v.at("removed")), v.at("shift").integer()};
}

Kv to_kv(const Value& v) {
  Kv out;
  out.layers = v.at("layers").integer();
  out.kv_heads = v.at("kv_heads").integer();
  out.head_dim = v.at("head_dim").integer();
  out.slots = integers(v.at("slots"));
  out.policy = v.at("policy").text();
  out.positions = v.at("positions").text();
  out.reuse = v.at("reuse").text();
  out.extends = v.at("extends").as<bool>();
  out.filing = v.at("filing").text();
  out.ring = v.at("ring").integer();
  out.keep = integers(v.at("keep"));
  return out;
}

Text to_text(const Value& v) {
  return {v.at("hidden").integer(), v.at("vocabulary").integer(), v.at("max_positions").integer(),
          integers(v.at("stop_ids")), v.at("pad_id").integer()};
}

Generation to_generation(const Value& v) {
  Generation out;
  if (v.is<std::nullptr_t>()) return out;
  out.repetition_penalty = v.at("repetition_penalty").real();
  out.no_repeat_ngram_size = v.at("no_repeat_ngram_size").integer();
  out.min_length = v.at("min_length").integer();
  out.min_new_tokens = v.at("min_new_tokens").integer();
  out.suppress_ids = integers(v.at("suppress_ids"));
  out.begin_suppress_ids = integers(v.at("begin_suppress_ids"));
  out.top_k = v.at("top_k").integer();
  out.top_p = v.at("top_p").real();
  if (!v.at("image_id").is<std::nullptr_t>()) out.image_id = v.at("image_id").integer();
  return out;
}

Vision to_vision(const Value& v) {
  return {v.at("height_px").integer(),   v.at("width_px").integer(), integers(v.at("grid")),
          v.at("full_tokens").integer(), v.at("parts").integer(),    v.at("separators").integer(),
          v.at("pictures").integer()};
}

Signals to_signals(const Value& v) {
  Signals out;
  for (const auto& [name, value] : v.object()) out[name] = value.real();
  return out;
}

Scorer to_scorer(const Value& v) {
  Scorer out{v.at("bias").real(), to_signals(v.at("signals")), v.at("per_token").real(), {}};
  for (const auto& pair : v.at("tokens").list()) {
    out.tokens.emplace_back(pair.list()[0].integer(), pair.list()[1].real());
  }
  return out;
}

Controller to_controller(const Value& v) {
  Controller out;
  for (const auto& rule : v.at("rules").list()) {
    out.rules.push_back({rule.at("budget").integer(), to_scorer(rule.at("enter")),
                         rule.at("enter_at_most").real(), to_scorer(rule.at("accept")),
                         rule.at("accept_at_most").real()});
  }
  out.full = v.at("full").integer();
  const Value& certificate = v.at("certificate");
  out.risk = certificate.at("risk").real();
  out.confidence = certificate.at("confidence").real();
  out.bundle_sha256 = certificate.at("bundle_sha256").text();
  out.flavour = certificate.at("flavour").text();
  for (const auto& decided : v.at("cases").list()) {
    Case made{to_signals(decided.at("signals")), integers(decided.at("question")), {},
              integers(decided.at("budgets"))};
    for (const auto& answer : decided.at("answers").list()) made.answers.push_back(to_signals(answer));
    out.cases.push_back(std::move(made));
  }
  if (const Value& t = v.at("thumbnail"); !t.is_null()) {
    out.thumbnail = Thumbnail{t.at("cells").integer(), t.at("bias").real(), {}};
    for (const auto& weight : t.at("weights").list()) out.thumbnail->weights.push_back(weight.real());
  }
  return out;
}

EncoderSide to_encoder(const Value& v) {
  const auto output = tensors(Value(List{v.at("output")}));
  EncoderSide out{v.at("task").text(), output[0], {}, {}, v.at("scores").text()};
  for (const auto& label : v.at("labels").list()) out.labels.push_back(label.text());
  if (const Value& side = v.at("text"); !side.is_null()) {
    const Value& s = side.at("similarity");
    out.text = TextSide{side.at("tokens").integer(),
                        {s.at("scale").real(), s.at("bias").real(), s.at("kind").text()}};
  }
  return out;
}

// What both kinds of manifest have.
void read_common(const Value& v, Manifest& out) {
  out.producer = v.at("producer").text();
  out.family = v.at("family").text();
  out.method = v.at("method").text();
  out.vision = to_vision(v.at("vision"));
  for (const auto& stage : v.at("stages").list()) out.stages.push_back(to_stage(stage));
  for (const auto& [path, file] : v.at("files").object()) {
    out.files[path] = {file.at("bytes").integer(), file.at("sha256").text()};
  }
}

Manifest to_encoder_manifest(const Value& v) {
  Manifest out;
  read_common(v, out);
  for (const auto& rung : v.at("ladder").list()) {
    out.ladder.emplace_back();
    out.ladder.back().budget = rung.at("budget").integer();
  }
  out.weights = v.at("weights").text();
  out.encoder = to_encoder(v);
  return out;
}

Manifest to_manifest(const Value& v) {
  Manifest out;
  read_common(v, out);
  for (const auto& rung : v.at("ladder").list()) out.ladder.push_back(to_rung(rung));
  out.weights = v.at("precision").at("weights").text();
  out.kv_precision = v.at("precision").at("kv").text();
  out.prefill_method = v.at("prefill").at("method").text();
  out.exits = integers(v.at("prefill").at("exits"));
  out.kv = to_kv(v.at("kv"));
  out.text = to_text(v.at("text"));
  out.generation = to_generation(v.at("generation"));
  if (!v.at("controller").is_null()) out.controller = to_controller(v.at("controller"));
  return out;
}

// Before the fields, which a newer format may have others of.
void require_version(const Value& tree) {
  if (!tree.is<Object>()) return;
  const auto& members = tree.object();
  const auto version = members.find("format_version");
  if (version == members.end() || !version->second.is<std::int64_t>()) return;
  if (version->second.integer() <= 1) return;
  const auto producer = members.find("producer");
  const bool named = producer != members.end() && producer->second.is<std::string>();
  throw bundle_error(std::string(kFile) + ": written by " +
                     (named ? shorten(producer->second.text()) : "an unknown program") +
                     " in format " + std::to_string(version->second.integer()) +
                     "; this edgetok reads up to 1; upgrade edgetok");
}

// Such a bundle has no language model, and other fields.
bool names_a_task(const Value& tree) {
  if (!tree.is<Object>()) return false;
  const auto found = tree.object().find("task");
  if (found == tree.object().end()) return false;
  return !found->second.is<std::string>() || found->second.text() != "answer";
}

Manifest read_answering(Value& tree) {
  apply(*manifest_schema(), tree, kFile);
  Manifest manifest = to_manifest(tree);
  auto& members = std::get<Object>(tree.data);
  members["controller"] = Value(nullptr);
  // So that bundles from before there was one keep their digest.
  if (members["generation"].is<std::nullptr_t>()) members.erase("generation");
  manifest.digest = sha256_hex(encode_strict(tree));
  return manifest;
}

Manifest read_encoder(Value& tree, const std::string& bytes) {
  apply(*encoder_manifest_schema(), tree, kFile);
  Manifest manifest = to_encoder_manifest(tree);
  manifest.digest = sha256_hex(bytes);
  return manifest;
}

void require_agreement(const std::vector<std::string>& found) {
  if (found.empty()) return;
  const std::vector<std::string> shown(
      found.begin(), found.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(8, found.size())));
  const std::string more = found.size() > 8 ? "; and " + std::to_string(found.size() - 8) + " more" : "";
  throw bundle_error(std::string(kFile) + ": " + join(shown, "; ") + more);
}

}  // namespace

const Rung* Manifest::rung(std::int64_t budget) const {
  for (const auto& rung : ladder) {
    if (rung.budget == budget) return &rung;
  }
  return nullptr;
}

Manifest parse_manifest(const std::string& bytes) {
  Value tree = parse_strict(bytes, kFile, limits::MANIFEST_BYTES);
  require_version(tree);
  Manifest manifest = names_a_task(tree) ? read_encoder(tree, bytes) : read_answering(tree);
  require_agreement(manifest.encoder ? find_encoder_contradictions(manifest) : find_contradictions(manifest));
  return manifest;
}

std::int64_t count_rows(const Stage& stage) {
  for (const auto& tensor : stage.inputs) {
    const bool has_rows = tensor.name == names::INPUT_EMBEDS || tensor.name == names::CHUNK_EMBEDS;
    if (has_rows && tensor.shape.size() == 3) return tensor.shape[1];
  }
  return 0;
}

bool may_have_several(const std::string& stage) { return stage == "prefill" || stage == names::EXTEND; }

std::vector<const Stage*> stages_of(const Manifest& manifest, const std::string& stage, std::int64_t budget,
                                    const std::string& flavour) {
  std::vector<const Stage*> out;
  for (const auto& each : manifest.stages) {
    const bool serves = !each.budget || *each.budget == budget;
    if (each.stage == stage && each.flavour == flavour && serves) out.push_back(&each);
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Stage* a, const Stage* b) { return count_rows(*a) > count_rows(*b); });
  return out;
}

std::vector<std::string> shared_stages(const Manifest& manifest) {
  std::vector<std::string> out = {"tower", "compress", "embed", "prefill", "decode"};
  if (manifest.kv.extends) out.emplace_back(names::EXTEND);
  if (manifest.kv.filing != "none") out.emplace_back(names::FLUSH);
  return out;
}

bool is_weights(const std::string& path) { return path.rfind("weights/", 0) == 0; }

std::int64_t weights_bytes(const Manifest& manifest) {
  std::int64_t total = 0;
  for (const auto& [path, file] : manifest.files) total += is_weights(path) ? file.bytes : 0;
  return total;
}

}  // namespace edgetok_impl
