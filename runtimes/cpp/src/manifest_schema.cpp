#include "manifest_schema.hpp"

#include "generated.hpp"

namespace edgetok_impl {

namespace {

using namespace schema;

const Schema* keep(Schema made) { return new Schema(std::move(made)); }  // for ever, once

Value nothing() { return Value(nullptr); }
Value whole(std::int64_t value) { return Value(value); }
Value none_of_it() { return Value(List{}); }
Value word(const char* text) { return Value(std::string(text)); }

const Schema* make() {
  const auto* positive = keep(integer(1, std::int64_t{1} << 40));
  const auto* count = keep(integer(0, std::int64_t{1} << 53));
  const auto* any_integer = keep(integer(INT64_MIN, INT64_MAX));
  const auto* maybe_positive = keep(nullable(integer(1, std::int64_t{1} << 40)));
  const auto* maybe_count = keep(nullable(integer(0, std::int64_t{1} << 53)));
  const auto* path = keep(text(is_anything, limits::PATH_CHARACTERS));
  const auto* name = keep(text(is_name, 120));
  const auto* sha256 = keep(text(is_sha256, 64));
  const auto* signal = keep(text(is_signal, 60));
  const auto* finite = keep(real(-1e300, 1e300));
  const auto* counts = keep(list(count));
  const auto* flavour = keep(choice({"ort", "portable"}));

  const auto* tensor = keep(object({
      {"name", name, {}},
      {"dtype", keep(choice({"float32", "float16", "int8", "uint8", "int32", "int64", "bool"})), {}},
      {"shape", keep(list(keep(integer(0, std::int64_t{1} << 33)), 0, 8)), {}},
  }));
  const auto* stage = keep(object({
      {"stage", keep(choice({"tower", "compress", "embed", "prefill", "segment", "exited", "extend",
                             "decode", "flush", "compact", "encode", "describe"})), {}},
      {"bucket", maybe_positive, {}},
      {"flavour", flavour, {}},
      {"file", path, {}},
      {"inputs", keep(list(tensor)), {}},
      {"outputs", keep(list(tensor)), {}},
      {"layer", maybe_count, nothing()},
  }));
  const auto* rung = keep(object({
      {"budget", positive, {}},
      {"prompt_tokens", positive, {}},
      {"cache_slots", positive, {}},
      {"removed", counts, {}},
      {"shift", any_integer, whole(0)},
  }));
  Schema ratio = real(0, 1);
  ratio.low_open = true;
  const auto* prefill = keep(object({
      {"method", name, {}},
      {"ratio", keep(ratio), {}},
      {"exits", keep(list(positive, 0, 1024)), none_of_it()},
  }));
  const auto* precision = keep(object({
      {"weights", keep(choice({"fp32", "int8", "int4"})), {}},
      {"kv", keep(choice({"fp32", "int8", "int4", "kivi", "kivi4", "zipcache", "think"})), {}},
  }));
  const auto* kv = keep(object({
      {"layers", positive, {}},
      {"kv_heads", positive, {}},
      {"head_dim", positive, {}},
      {"slots", keep(list(positive, 1, 1024)), {}},
      {"policy", name, {}},
      {"positions", keep(choice({"kept", "renumbered"})), {}},
      {"keep", keep(list(positive, 0, 1024)), none_of_it()},
      {"planes", keep(list(name, 0, 16)), none_of_it()},
      {"ring", count, whole(0)},
      {"key_channels", count, whole(0)},
      {"reads", count, whole(0)},
      {"selects", keep(list(count, 0, 1024)), none_of_it()},
      {"convolutions", keep(integer(0, 1024)), whole(0)},
      {"kernel", keep(integer(0, 64)), whole(0)},
  }));
  const auto* text_model = keep(object({
      {"hidden", positive, {}},
      {"vocabulary", positive, {}},
      {"max_positions", positive, {}},
      {"stop_ids", counts, {}},
      {"pad_id", count, {}},
      {"sees_ahead", keep(choice({"nothing", "image", "prompt"})), word("nothing")},
      {"axes", keep(integer(1, 3)), whole(1)},
      {"deep", count, whole(0)},
  }));
  const auto* vision = keep(object({
      {"height_px", positive, {}},
      {"width_px", positive, {}},
      {"grid", keep(list(positive, 2, 2)), {}},
      {"full_tokens", positive, {}},
      {"parts", positive, whole(1)},
      {"separators", count, whole(0)},
      {"pictures", positive, whole(1)},
  }));
  const auto* file = keep(object({{"bytes", count, {}}, {"sha256", sha256, {}}}));

  const Value zero(0.0);
  const auto* scorer = keep(object({
      {"bias", finite, zero},
      {"signals", keep(map(signal, finite, 64)), Value(Object{})},
      {"per_token", finite, zero},
      {"tokens", keep(list(keep(tuple({count, finite})), 0, 4096)), none_of_it()},
  }));
  const auto* rule = keep(object({
      {"budget", positive, {}},
      {"enter", scorer, {}},
      {"enter_at_most", finite, {}},
      {"accept", scorer, {}},
      {"accept_at_most", finite, {}},
  }));
  const auto* share_of_one = keep(real(0, 1));
  const auto* certificate = keep(object({
      {"risk", keep(share()), {}},
      {"confidence", keep(share()), {}},
      {"loss", keep(choice({"wrong", "differs"})), {}},
      {"unit", keep(choice({"question", "image"})), {}},
      {"units", positive, {}},
      {"mean_loss", share_of_one, {}},
      {"p_value", share_of_one, {}},
      {"mean_tokens", keep(real(0, 1e9)), {}},
      {"data_sha256", sha256, {}},
      {"bundle_sha256", sha256, {}},
      {"flavour", flavour, {}},
      {"differs", keep(nullable(real(0, 1))), nothing()},
  }));
  const auto* thumbnail = keep(nullable(object({
      {"cells", keep(integer(1, 16)), {}},
      {"bias", finite, {}},
      {"weights", keep(list(finite, 2, 512)), {}},
  })));
  const auto* of_signals = keep(map(signal, finite));
  const auto* decided = keep(object({
      {"signals", of_signals, {}},
      {"question", keep(list(count, 0, 4096)), {}},
      {"answers", keep(list(of_signals, 0, 64)), {}},
      {"budgets", keep(list(positive, 1, 64)), {}},
  }));
  const auto* controller = keep(nullable(object({
      {"rules", keep(list(rule, 0, 64)), {}},
      {"full", positive, {}},
      {"certificate", certificate, {}},
      {"cases", keep(list(decided, 0, 64)), {}},
      {"thumbnail", thumbnail, nothing()},
  })));

  return keep(object({
      {"format_version", keep(integer(1, 1)), {}},
      {"producer", keep(text(is_anything, 120)), {}},
      {"family", name, {}},
      {"method", name, {}},
      {"seed", count, {}},
      {"ladder", keep(list(rung, 1, 64)), {}},
      {"precision", precision, {}},
      {"prefill", prefill, {}},
      {"kv", kv, {}},
      {"text", text_model, {}},
      {"vision", vision, {}},
      {"stages", keep(list(stage, 1, 2048)), {}},
      {"files", keep(map(path, file)), {}},
      {"controller", controller, nothing()},
  }));
}

}  // namespace

const Schema& manifest_schema() {
  static const Schema* const made = make();
  return *made;
}

}  // namespace edgetok_impl
