// Written by `make docs` (runtimes/cpp/make_generated.py) from edgetok/bundle, edgetok/rules.py and
// edgetok/control/table.py.
// Do not edit: a test compares it with them.

#include "bundle/schema.hpp"

namespace edgetok_impl {

using namespace schema;

namespace {

const Schema* rung_spec_schema() {
  static const Schema* const made = object({
      {"budget", integer(1, 1099511627776), {}},
      {"prompt_tokens", integer(1, 1099511627776), {}},
      {"cache_slots", integer(1, 1099511627776), {}},
      {"removed", list(integer(0, 9007199254740992)), {}},
      {"shift", integer(INT64_MIN, INT64_MAX), Value(std::int64_t{0})},
  });
  return made;
}

const Schema* precision_schema() {
  static const Schema* const made = object({
      {"weights", choice({"fp32", "int4", "int8"}), {}},
      {"kv", text("A-Za-z0-9_.+-", 1, 120), {}},
  });
  return made;
}

const Schema* prefill_schema() {
  static const Schema* const made = object({
      {"method", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"ratio", real(0, 1, true, false), {}},
      {"exits", list(integer(1, 1099511627776), 0, 1024), Value(List{})},
  });
  return made;
}

const Schema* kv_cache_schema() {
  static const Schema* const made = object({
      {"layers", integer(1, 1099511627776), {}},
      {"kv_heads", integer(1, 1099511627776), {}},
      {"head_dim", integer(1, 1099511627776), {}},
      {"slots", list(integer(1, 1099511627776), 1, 1024), {}},
      {"policy", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"positions", choice({"kept", "renumbered"}), {}},
      {"reuse", choice({"append", "nothing", "rewind"}), {}},
      {"extends", boolean(), {}},
      {"filing", choice({"groups", "none", "tiers"}), Value(std::string("none"))},
      {"ring", integer(0, 9007199254740992), Value(std::int64_t{0})},
      {"keep", list(integer(1, 1099511627776), 0, 1024), Value(List{})},
  });
  return made;
}

const Schema* text_schema() {
  static const Schema* const made = object({
      {"hidden", integer(1, 1099511627776), {}},
      {"vocabulary", integer(1, 1099511627776), {}},
      {"max_positions", integer(1, 1099511627776), {}},
      {"stop_ids", list(integer(0, 9007199254740992)), {}},
      {"pad_id", integer(0, 9007199254740992), {}},
  });
  return made;
}

const Schema* vision_schema() {
  static const Schema* const made = object({
      {"height_px", integer(1, 1099511627776), {}},
      {"width_px", integer(1, 1099511627776), {}},
      {"grid", list(integer(1, 1099511627776), 2, 2), {}},
      {"full_tokens", integer(1, 1099511627776), {}},
      {"parts", integer(1, 1099511627776), Value(std::int64_t{1})},
      {"separators", integer(0, 9007199254740992), Value(std::int64_t{0})},
      {"pictures", integer(1, 1099511627776), Value(std::int64_t{1})},
  });
  return made;
}

const Schema* tensor_schema() {
  static const Schema* const made = object({
      {"name", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"dtype", choice({"bool", "float16", "float32", "int32", "int64", "int8", "uint8"}), {}},
      {"shape", list(integer(0, 8589934592), 0, 8), {}},
  });
  return made;
}

const Schema* stage_schema() {
  static const Schema* const made = object({
      {"stage", choice({"compact", "compress", "decode", "describe", "embed", "encode", "exited", "extend", "flush", "prefill", "segment", "tower", "unpack"}), {}},
      {"budget", nullable(integer(1, 1099511627776)), {}},
      {"flavour", choice({"ort", "portable"}), {}},
      {"file", text("", 0, 240), {}},
      {"inputs", list(tensor_schema()), {}},
      {"outputs", list(tensor_schema()), {}},
      {"layer", nullable(integer(0, 9007199254740992)), Value(nullptr)},
  });
  return made;
}

const Schema* file_schema() {
  static const Schema* const made = object({
      {"bytes", integer(0, 9007199254740992), {}},
      {"sha256", text("0-9a-f", 64, 64), {}},
  });
  return made;
}

const Schema* generation_schema() {
  static const Schema* const made = object({
      {"repetition_penalty", real(0, 1000000.0, true, false), Value(1.0)},
      {"no_repeat_ngram_size", integer(0, 9007199254740992), Value(std::int64_t{0})},
      {"min_length", integer(0, 9007199254740992), Value(std::int64_t{0})},
      {"min_new_tokens", integer(0, 9007199254740992), Value(std::int64_t{0})},
      {"suppress_ids", list(integer(0, 9007199254740992)), Value(List{})},
      {"begin_suppress_ids", list(integer(0, 9007199254740992)), Value(List{})},
      {"top_k", integer(0, 9007199254740992), Value(std::int64_t{0})},
      {"top_p", real(0, 1, true, false), Value(1.0)},
      {"image_id", nullable(integer(0, 9007199254740992)), Value(nullptr)},
  });
  return made;
}

const Schema* scorer_schema() {
  static const Schema* const made = object({
      {"bias", real(-1e+300, 1e+300), Value(0.0)},
      {"signals", map(text("a-z0-9_", 1, 60), real(-1e+300, 1e+300), 0, 64), Value(Object{})},
      {"per_token", real(-1e+300, 1e+300), Value(0.0)},
      {"tokens", list(tuple({integer(0, 9007199254740992), real(-1e+300, 1e+300)}), 0, 4096), Value(List{})},
  });
  return made;
}

const Schema* rule_schema() {
  static const Schema* const made = object({
      {"budget", integer(1, 1099511627776), {}},
      {"enter", scorer_schema(), {}},
      {"enter_at_most", real(-1e+300, 1e+300), {}},
      {"accept", scorer_schema(), {}},
      {"accept_at_most", real(-1e+300, 1e+300), {}},
  });
  return made;
}

const Schema* certificate_schema() {
  static const Schema* const made = object({
      {"risk", real(0, 1, true, true), {}},
      {"confidence", real(0, 1, true, true), {}},
      {"loss", choice({"differs", "wrong"}), {}},
      {"unit", choice({"image", "question"}), {}},
      {"units", integer(1, 1099511627776), {}},
      {"mean_loss", real(0, 1), {}},
      {"p_value", real(0, 1), {}},
      {"mean_tokens", real(0, 1000000000.0), {}},
      {"data_sha256", text("0-9a-f", 64, 64), {}},
      {"bundle_sha256", text("0-9a-f", 64, 64), {}},
      {"flavour", choice({"ort", "portable"}), {}},
      {"differs", nullable(real(0, 1)), Value(nullptr)},
  });
  return made;
}

const Schema* case_schema() {
  static const Schema* const made = object({
      {"signals", map(text("a-z0-9_", 1, 60), real(-1e+300, 1e+300)), {}},
      {"question", list(integer(0, 9007199254740992), 0, 4096), {}},
      {"answers", list(map(text("a-z0-9_", 1, 60), real(-1e+300, 1e+300)), 0, 64), {}},
      {"budgets", list(integer(1, 1099511627776), 1, 64), {}},
  });
  return made;
}

const Schema* thumbnail_schema() {
  static const Schema* const made = object({
      {"cells", integer(1, 16), {}},
      {"bias", real(-1e+300, 1e+300), {}},
      {"weights", list(real(-1e+300, 1e+300), 2, 512), {}},
  });
  return made;
}

const Schema* controller_schema() {
  static const Schema* const made = object({
      {"rules", list(rule_schema(), 0, 64), {}},
      {"full", integer(1, 1099511627776), {}},
      {"certificate", certificate_schema(), {}},
      {"cases", list(case_schema(), 0, 64), {}},
      {"thumbnail", nullable(thumbnail_schema()), Value(nullptr)},
  });
  return made;
}

const Schema* encoder_rung_schema() {
  static const Schema* const made = object({
      {"budget", integer(1, 1099511627776), {}},
  });
  return made;
}

const Schema* similarity_schema() {
  static const Schema* const made = object({
      {"scale", real(-kInfinity, kInfinity), {}},
      {"bias", real(-kInfinity, kInfinity), {}},
      {"kind", choice({"sigmoid", "softmax"}), {}},
  });
  return made;
}

const Schema* text_side_schema() {
  static const Schema* const made = object({
      {"tokens", integer(1, 1099511627776), {}},
      {"similarity", similarity_schema(), {}},
  });
  return made;
}

const Schema* tiles_schema() {
  static const Schema* const made = object({
      {"grid", list(integer(1, 1099511627776), 2, 2), {}},
      {"fit", choice({"pad", "stretch"}), {}},
  });
  return made;
}

const Schema* segment_schema() {
  static const Schema* const made = object({
      {"ids", nullable(list(integer(0, 9007199254740992))), Value(nullptr)},
      {"text", nullable(text("", 0, SIZE_MAX)), Value(nullptr)},
      {"slot", nullable(choice({"image", "system", "user"})), Value(nullptr)},
      {"strip", nullable(choice({"both", "left", "right"})), Value(nullptr)},
  });
  return made;
}

const Schema* row_schema() {
  static const Schema* const made = object({
      {"budget", integer(1, INT64_MAX), {}},
      {"ttft_ms_p50", real(0, kInfinity), {}},
      {"ttft_ms_p95", real(0, kInfinity), {}},
      {"decode_ms_p50", real(0, kInfinity), {}},
      {"memory_mib", real(0, kInfinity), {}},
      {"energy_j", nullable(real(0, kInfinity)), Value(nullptr)},
  });
  return made;
}

}  // namespace

const Schema* manifest_schema() {
  static const Schema* const made = object({
      {"format_version", integer(1, 1), {}},
      {"producer", text("", 0, 120), {}},
      {"family", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"method", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"seed", integer(0, 9007199254740992), {}},
      {"ladder", list(rung_spec_schema(), 1, 64), {}},
      {"precision", precision_schema(), {}},
      {"prefill", prefill_schema(), {}},
      {"kv", kv_cache_schema(), {}},
      {"text", text_schema(), {}},
      {"vision", vision_schema(), {}},
      {"stages", list(stage_schema(), 1, 2048), {}},
      {"files", map(text("", 0, 240), file_schema()), {}},
      {"generation", nullable(generation_schema()), Value(nullptr)},
      {"controller", nullable(controller_schema()), Value(nullptr)},
  });
  return made;
}

const Schema* encoder_manifest_schema() {
  static const Schema* const made = object({
      {"format_version", integer(1, 1), {}},
      {"task", choice({"classify", "depth", "embed", "segment", "similarity"}), {}},
      {"producer", text("", 0, 120), {}},
      {"family", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"method", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"ladder", list(encoder_rung_schema(), 1, 64), {}},
      {"weights", choice({"fp32", "int4", "int8"}), {}},
      {"vision", vision_schema(), {}},
      {"output", tensor_schema(), {}},
      {"labels", list(text("", 0, 1024), 0, 100000), {}},
      {"text", nullable(text_side_schema()), {}},
      {"stages", list(stage_schema(), 1, 512), {}},
      {"files", map(text("", 0, 240), file_schema()), {}},
      {"scores", choice({"none", "sigmoid", "softmax"}), Value(std::string("softmax"))},
  });
  return made;
}

const Schema* image_plan_schema() {
  static const Schema* const made = object({
      {"resize_shortest_px", nullable(integer(1, 1099511627776)), {}},
      {"resize_px", nullable(list(integer(1, 1099511627776), 2, 2)), {}},
      {"resample", choice({"bicubic", "bilinear", "box", "hamming", "lanczos", "nearest"}), {}},
      {"crop_px", nullable(list(integer(1, 1099511627776), 2, 2)), {}},
      {"rescale", real(-kInfinity, kInfinity), {}},
      {"mean", list(real(-kInfinity, kInfinity), 3, 3), {}},
      {"std", list(real(-kInfinity, kInfinity), 3, 3), {}},
      {"resize_longest_px", nullable(integer(1, 1099511627776)), Value(nullptr)},
      {"tiles", nullable(tiles_schema()), Value(nullptr)},
      {"square_rgb", nullable(list(integer(0, 255), 3, 3)), Value(nullptr)},
  });
  return made;
}

const Schema* prompt_plan_schema() {
  static const Schema* const made = object({
      {"segments", list(segment_schema()), {}},
      {"forbidden_ids", list(integer(0, 9007199254740992)), {}},
      {"turn", nullable(list(segment_schema())), Value(nullptr)},
      {"system", nullable(list(segment_schema())), Value(nullptr)},
      {"starts_with_text", boolean(), Value(true)},
  });
  return made;
}

const Schema* bench_table_schema() {
  static const Schema* const made = object({
      {"bundle_digest", text("0-9a-f", 64, 64), {}},
      {"device", text("", 1, 120), {}},
      {"rows", list(row_schema()), {}},
  });
  return made;
}

}  // namespace edgetok_impl
