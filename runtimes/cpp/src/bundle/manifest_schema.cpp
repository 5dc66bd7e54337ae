#include "bundle/manifest_schema.hpp"

#include "generated.hpp"

namespace edgetok_impl {

namespace {

using namespace schema;

const Schema* keep(Schema made) { return new Schema(std::move(made)); }  // for ever, once

Value nothing() { return Value(nullptr); }
Value whole(std::int64_t value) { return Value(value); }
Value none_of_it() { return Value(List{}); }
Value word(const char* text) { return Value(std::string(text)); }

// What both kinds of manifest are made of.
struct Parts {
  const Schema* positive = keep(integer(1, std::int64_t{1} << 40));
  const Schema* count = keep(integer(0, std::int64_t{1} << 53));
  const Schema* name = keep(text(is_name, 120));
  const Schema* sha256 = keep(text(is_sha256, 64));
  const Schema* producer = keep(text(is_anything, 120));
  const Schema* path = keep(text(is_anything, limits::PATH_CHARACTERS));
  const Schema* flavour = keep(choice({"ort", "portable"}));
  const Schema* weights = keep(choice({"fp32", "int8", "int4"}));
  const Schema* version = keep(integer(1, 1));
  const Schema* tensor = keep(object({
      {"name", name, {}},
      {"dtype", keep(choice({"float32", "float16", "int8", "uint8", "int32", "int64", "bool"})), {}},
      {"shape", keep(list(keep(integer(0, std::int64_t{1} << 33)), 0, 8)), {}},
  }));
  const Schema* stage = keep(object({
      {"stage", keep(choice({"tower", "compress", "embed", "prefill", "segment", "exited", "extend",
                             "decode", "flush", "compact", "encode", "describe"})), {}},
      {"bucket", keep(nullable(integer(1, std::int64_t{1} << 40))), {}},
      {"flavour", flavour, {}},
      {"file", path, {}},
      {"inputs", keep(list(tensor)), {}},
      {"outputs", keep(list(tensor)), {}},
      {"layer", keep(nullable(integer(0, std::int64_t{1} << 53))), nothing()},
  }));
  const Schema* vision = keep(object({
      {"height_px", positive, {}},
      {"width_px", positive, {}},
      {"grid", keep(list(positive, 2, 2)), {}},
      {"full_tokens", positive, {}},
      {"parts", positive, whole(1)},
      {"separators", count, whole(0)},
      {"pictures", positive, whole(1)},
  }));
  const Schema* files = keep(map(path, keep(object({{"bytes", count, {}}, {"sha256", sha256, {}}}))));
};

const Parts& parts() {
  static const Parts made;
  return made;
}

const Schema* make() {
  const auto *positive = parts().positive, *count = parts().count, *name = parts().name, *sha256 = parts().sha256;
  const auto* any_integer = keep(integer(INT64_MIN, INT64_MAX));
  const auto* signal = keep(text(is_signal, 60));
  const auto* finite = keep(real(-1e300, 1e300));
  const auto* counts = keep(list(count));

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
      {"weights", parts().weights, {}},
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
      {"flavour", parts().flavour, {}},
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
      {"format_version", parts().version, {}},
      {"producer", parts().producer, {}},
      {"family", name, {}},
      {"method", name, {}},
      {"seed", count, {}},
      {"ladder", keep(list(rung, 1, 64)), {}},
      {"precision", precision, {}},
      {"prefill", prefill, {}},
      {"kv", kv, {}},
      {"text", text_model, {}},
      {"vision", parts().vision, {}},
      {"stages", keep(list(parts().stage, 1, 2048)), {}},
      {"files", parts().files, {}},
      {"controller", controller, nothing()},
  }));
}

const Schema* make_encoder() {
  const auto* number = keep(real(-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()));
  const auto* similarity = keep(object({
      {"scale", number, {}},
      {"bias", number, {}},
      {"kind", keep(choice({"softmax", "sigmoid"})), {}},
  }));
  const auto* text_side = keep(nullable(object({
      {"tokens", parts().positive, {}},
      {"similarity", similarity, {}},
  })));
  return keep(object({
      {"format_version", parts().version, {}},
      {"task", keep(choice({"classify", "embed", "similarity", "depth", "segment"})), {}},
      {"producer", parts().producer, {}},
      {"family", parts().name, {}},
      {"method", parts().name, {}},
      {"ladder", keep(list(keep(object({{"budget", parts().positive, {}}})), 1, 64)), {}},
      {"weights", parts().weights, {}},
      {"vision", parts().vision, {}},
      {"output", parts().tensor, {}},
      {"labels", keep(list(keep(text(is_anything, 1024)), 0, 100'000)), {}},
      {"text", text_side, {}},
      {"stages", keep(list(parts().stage, 1, 512)), {}},
      {"files", parts().files, {}},
  }));
}

}  // namespace

const Schema& encoder_schema() {
  static const Schema* const made = make_encoder();
  return *made;
}

const Schema& manifest_schema() {
  static const Schema* const made = make();
  return *made;
}

}  // namespace edgetok_impl
