// The C interface. All else is in edgetok_impl, so that edgetok.hpp has edgetok for itself.
// Whatever may throw becomes a status and a message here.
#include "api/api.hpp"
#include "generated.hpp"
#include "machine.hpp"
#include "text.hpp"
#include "tokenizer/prompt.hpp"

using edgetok_impl::usage_error;
using namespace edgetok_impl::api;  // guarded, require and the like

namespace edgetok_impl {
namespace api {

namespace {
thread_local std::string last_message;
}

const char* message() { return last_message.c_str(); }

edgetok_status fail(edgetok_status status, const char* message) {
  try {
    last_message = message;
  } catch (...) {
    last_message.clear();
  }
  return status;
}

Ids read_ids(const int64_t* ids, size_t count, const char* what) {
  if (count > static_cast<size_t>(limits::PROMPT_TOKENS)) {
    throw input_error(std::string(what) + " has " + std::to_string(count) + " tokens; at most " +
                      std::to_string(limits::PROMPT_TOKENS) + " are read");
  }
  if (count != 0) require(ids, what);
  return count == 0 ? Ids() : Ids(ids, ids + count);
}

LoadOptions read_options(const edgetok_load_options* given) {
  LoadOptions out;
  if (given == nullptr) return out;
  const auto o = read_struct(given, "options");
  if (o.budget_count > 64) throw usage_error("more budgets than a bundle has rungs");
  if (o.budgets != nullptr) out.budgets.assign(o.budgets, o.budgets + o.budget_count);
  out.threads = o.threads;
  if (o.flavour != nullptr) out.flavour = o.flavour;
  out.packed = o.packed != 0;
  if (o.device != nullptr) out.device = o.device;
  if (o.precision != nullptr) out.precision = o.precision;
  return out;
}

}  // namespace api
}  // namespace edgetok_impl

namespace {

edgetok_impl::Prompt read_prompt(const edgetok_prompt* given) {
  const auto p = read_struct(given, "prompt");
  return {read_ids(p.before, p.before_count, "prompt.before"), read_ids(p.after, p.after_count, "prompt.after"),
          p.question_first, p.question_count};
}

double read_limit(double value, const char* what) {
  if (value == 0 || (value > 0 && value < 1e300)) return value;
  throw usage_error(std::string(what) + " " + edgetok_impl::format_number(value, 6) + " is no positive number");
}

edgetok_impl::Request read_request(const edgetok_request* given, const std::string& digest) {
  edgetok_impl::Request out;
  if (given == nullptr) return out;
  const auto r = read_struct(given, "request");
  out.budget = r.budget;
  out.elbow = r.elbow != 0;
  out.max_new_tokens = r.max_new_tokens;
  out.sampling = {r.temperature, r.top_p, r.seed, r.top_k, r.repetition_penalty, r.no_repeat_ngram_size, r.min_new_tokens};
  out.limits.max_ttft_ms = read_limit(r.max_ttft_ms, "max_ttft_ms");
  out.limits.max_memory_mib = read_limit(r.max_memory_mib, "max_memory_mib");
  if (out.is_limited()) {
    out.limits.rows = edgetok_impl::parse_table(&require(r.table, "request.table, which limits need,"), digest);
  }
  if (r.weight_count > static_cast<size_t>(edgetok_impl::limits::PICTURES)) {
    throw usage_error("more weights than a prompt has pictures");
  }
  if (r.weight_count != 0) out.weights.assign(&require(r.weights, "request.weights"), r.weights + r.weight_count);
  if (r.on_token != nullptr) {
    out.on_token = [call = r.on_token, user = r.user](int64_t token) { return call(user, token) == 0; };
  }
  return out;
}

void require_answers(const edgetok_impl::Manifest& m) {
  if (!m.encoder) return;
  throw usage_error("this bundle has no language model; its task is " + m.encoder->task +
                    ": load it with edgetok_encoder_load");
}

void check(const edgetok_impl::Bundle& bundle) {
  edgetok_impl::parse_image_plan(bundle.read("processor/image.json"));
  const bool answers = !bundle.manifest().encoder;
  if (answers) edgetok_impl::parse_prompt_plan(bundle.read("processor/prompt.json"));
  for (const auto& stage : bundle.manifest().stages) bundle.graph(stage);
  if (bundle.manifest().controller) edgetok_impl::check_cases(*bundle.manifest().controller);
}

}  // namespace

extern "C" {

const char* edgetok_version(void) { return EDGETOK_VERSION; }
const char* edgetok_message(void) { return message(); }

edgetok_status edgetok_bundle_open(const char* path, int skip_hashes, edgetok_bundle** bundle) {
  return guarded([&] {
    require(bundle, "bundle") = nullptr;
    auto opened = std::make_shared<const edgetok_impl::Bundle>(&require(path, "path"), skip_hashes == 0);
    *bundle = new edgetok_bundle{std::move(opened)};
  });
}

void edgetok_bundle_free(edgetok_bundle* bundle) { delete bundle; }

edgetok_status edgetok_bundle_check(const edgetok_bundle* bundle) {
  return guarded([&] { check(*require(bundle, "bundle").bundle); });
}

edgetok_status edgetok_bundle_describe(const edgetok_bundle* bundle, edgetok_bundle_info* info) {
  return guarded([&] {
    const auto& m = require(bundle, "bundle").bundle->manifest();
    write_struct({sizeof(edgetok_bundle_info), m.producer.c_str(), m.family.c_str(), m.method.c_str(),
                  m.weights.c_str(), m.kv_precision.c_str(), m.digest.c_str(), m.text.vocabulary,
                  m.vision.height_px, m.vision.width_px, m.controller ? 1 : 0,
                  m.encoder ? m.encoder->task.c_str() : "answer", m.vision.pictures},
                 info, "info");
  });
}

size_t edgetok_bundle_rung_count(const edgetok_bundle* bundle) {
  return bundle == nullptr ? 0 : bundle->bundle->manifest().ladder.size();
}

edgetok_status edgetok_bundle_rung(const edgetok_bundle* bundle, size_t index, edgetok_rung* rung) {
  return guarded([&] {
    const auto& m = require(bundle, "bundle").bundle->manifest();
    if (index >= m.ladder.size()) throw usage_error("there is no rung " + std::to_string(index));
    const auto& found = m.ladder[index];
    const int64_t new_tokens = m.encoder ? 0 : found.new_tokens();
    write_struct({sizeof(edgetok_rung), found.budget, found.prompt_tokens, new_tokens}, rung, "rung");
  });
}

edgetok_status edgetok_model_load(const edgetok_bundle* bundle, const edgetok_load_options* options,
                                  edgetok_model** model) {
  return guarded([&] {
    require(model, "model") = nullptr;
    const auto& opened = require(bundle, "bundle").bundle;
    require_answers(opened->manifest());
    *model = new edgetok_model{std::make_shared<edgetok_impl::Model>(opened, read_options(options))};
  });
}

void edgetok_model_free(edgetok_model* model) { delete model; }

edgetok_status edgetok_model_memory(const edgetok_model* model, edgetok_memory* memory) {
  return guarded([&] {
    const auto& loaded = *require(model, "model").model;
    const auto& runtime = loaded.runtime();
    write_struct({sizeof(edgetok_memory), edgetok_impl::weights_bytes(loaded.bundle().manifest()),
                  runtime.cache_bytes(), runtime.buffer_bytes(),
                  edgetok_impl::resident_bytes()},
                 memory, "memory");
  });
}

edgetok_status edgetok_model_forget(edgetok_model* model) {
  return guarded([&] { require(model, "model").model->forget(); });
}

void edgetok_model_cancel(edgetok_model* model) {
  if (model != nullptr) model->model->cancel();
}

edgetok_status edgetok_image_from_pixels(const edgetok_model* model, const edgetok_pixels* pixels,
                                         edgetok_image** image) {
  return guarded([&] {
    require(image, "image") = nullptr;
    const auto& loaded = *require(model, "model").model;
    *image = new edgetok_image{share(loaded.prepare(edgetok_impl::from_pixels(read_struct(pixels, "pixels"))))};
  });
}

edgetok_status edgetok_image_from_file(const edgetok_model* model, const uint8_t* data, size_t bytes,
                                       edgetok_image** image) {
  return guarded([&] {
    require(image, "image") = nullptr;
    const auto& loaded = *require(model, "model").model;
    *image = new edgetok_image{share(loaded.prepare(edgetok_impl::decode_image(&require(data, "data"), bytes)))};
  });
}

edgetok_status edgetok_image_from_many(const edgetok_model* model, edgetok_image* const* pictures, size_t count,
                                       edgetok_image** image) {
  return guarded([&] {
    require(image, "image") = nullptr;
    const auto& loaded = *require(model, "model").model;
    edgetok_impl::require_pictures(loaded.bundle().manifest(), count);
    require(pictures, "pictures");
    std::vector<const edgetok_impl::Image*> parts;
    for (size_t i = 0; i < count; ++i) parts.push_back(require(pictures[i], "a picture").image.get());
    *image = new edgetok_image{share(loaded.join(parts))};
  });
}

void edgetok_image_free(edgetok_image* image) { delete image; }

const float* edgetok_image_data(const edgetok_image* image, size_t* count) {
  if (count != nullptr) *count = image == nullptr ? 0 : image->image->pixels.size();
  return image == nullptr ? nullptr : image->image->pixels.data();
}

edgetok_status edgetok_generate(edgetok_model* model, edgetok_image* image, const edgetok_prompt* prompt,
                                const edgetok_request* request, edgetok_answer** answer) {
  return guarded([&] {
    require(answer, "answer") = nullptr;
    auto& loaded = *require(model, "model").model;
    const auto asked = read_request(request, loaded.bundle().manifest().digest);
    auto found = loaded.generate(*require(image, "image").image, read_prompt(prompt), asked);
    *answer = new edgetok_answer{std::move(found)};
  });
}

void edgetok_answer_free(edgetok_answer* answer) { delete answer; }

const int64_t* edgetok_answer_tokens(const edgetok_answer* answer, size_t* count) {
  return show(answer->answer.tokens, count);
}

const int64_t* edgetok_answer_kept(const edgetok_answer* answer, size_t* count) {
  return show(answer->answer.kept, count);
}

const int64_t* edgetok_answer_tried(const edgetok_answer* answer, size_t* count) {
  return show(answer->answer.tried, count);
}

edgetok_stop edgetok_answer_stop(const edgetok_answer* answer) {
  return static_cast<edgetok_stop>(answer->answer.stop);
}

const char* edgetok_answer_reason(const edgetok_answer* answer) { return answer->answer.reason.c_str(); }
double edgetok_answer_margin(const edgetok_answer* answer) { return answer->answer.first_margin; }
double edgetok_answer_log_probability(const edgetok_answer* answer) { return answer->answer.log_probability(); }
int64_t edgetok_answer_reused(const edgetok_answer* answer) { return static_cast<int64_t>(answer->answer.reused); }

edgetok_status edgetok_converse(edgetok_model* model, edgetok_image* image, edgetok_conversation** conversation) {
  return guarded([&] {
    require(conversation, "conversation") = nullptr;
    edgetok_impl::Conversation begun(require(model, "model").model, require(image, "image").image);
    *conversation = new edgetok_conversation{std::move(begun)};
  });
}

void edgetok_conversation_free(edgetok_conversation* conversation) { delete conversation; }

edgetok_status edgetok_conversation_ask(edgetok_conversation* conversation, const edgetok_prompt* prompt,
                                        const edgetok_request* request, edgetok_answer** answer) {
  return guarded([&] {
    require(answer, "answer") = nullptr;
    auto& begun = require(conversation, "conversation").conversation;
    auto found = begun.ask(read_prompt(prompt), read_request(request, begun.digest()));
    *answer = new edgetok_answer{std::move(found)};
  });
}

size_t edgetok_conversation_turns(const edgetok_conversation* conversation) {
  return conversation == nullptr ? 0 : conversation->conversation.turns();
}

int64_t edgetok_conversation_tokens_left(const edgetok_conversation* conversation) {
  return conversation == nullptr ? 0 : conversation->conversation.tokens_left();
}

edgetok_status edgetok_answer_signal(const edgetok_answer* answer, const char* name, double* value) {
  return guarded([&] {
    double& out = require(value, "value");
    const auto& signals = require(answer, "answer").answer.signals;
    const auto found = signals.find(&require(name, "name"));
    if (found == signals.end()) {
      throw usage_error("there is no signal " + edgetok_impl::shorten(name) + " of this image");
    }
    out = found->second;
  });
}

int64_t edgetok_answer_exit_layer(const edgetok_answer* answer) { return answer->answer.exit_layer; }

edgetok_status edgetok_answer_timings(const edgetok_answer* answer, edgetok_timings* timings) {
  return guarded([&] {
    const auto& t = require(answer, "answer").answer.timings;
    write_struct({sizeof(edgetok_timings), t.preprocess, t.tower, t.compress, t.embed, t.prefill, t.ttft, t.decode},
                 timings, "timings");
  });
}

}  // extern "C"
