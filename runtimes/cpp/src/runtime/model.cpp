#include "runtime/model.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "generated.hpp"

namespace edgetok_impl {

namespace {

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Adds what a piece of work took.
class Watch {
 public:
  explicit Watch(double& total) : total_(total) {}
  ~Watch() { total_ += milliseconds_since(start_); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  double& total_;
  Clock::time_point start_ = Clock::now();
};

bool are_finite(const float* values, std::size_t count) {
  return std::all_of(values, values + count, [](float v) { return std::isfinite(v); });
}

Signals signals_of(const Answer& answer) {
  if (answer.tokens.empty()) return {};
  return {{names::ANSWER_MARGIN, answer.first_margin}, {names::ANSWER_LOG_PROBABILITY, answer.log_probability()}};
}

void require_fits(const Prompt& prompt, std::int64_t limit) {
  const auto count = static_cast<std::int64_t>(prompt.size());
  if (count <= limit) return;
  throw input_error("the prompt has " + std::to_string(count) + " text tokens, template included, and at most " +
                    std::to_string(limit) + " fit; shorten it by " + std::to_string(count - limit) +
                    ", or export with --prompt-tokens " + std::to_string(count) + " or more");
}

}  // namespace

InUse::InUse(std::atomic<bool>& flag, std::atomic<bool>& cancelled) : flag_(flag) {
  if (flag_.exchange(true)) {
    throw usage_error("this model is answering already and has one KV cache; wait, or load the bundle again");
  }
  cancelled = false;
}

double Answer::log_probability() const {
  return tokens.empty() ? 0 : log_probability_sum / static_cast<double>(tokens.size());
}

Model::Model(std::shared_ptr<const Bundle> bundle, const LoadOptions& options)
    : bundle_(std::move(bundle)),
      plan_(parse_image_plan(bundle_->read("processor/image.json"))),
      runtime_(*bundle_, options),
      cache_(runtime_) {}

Image Model::prepare(Picture picture) const {
  const auto start = Clock::now();
  Image image;
  image.digest = bundle_->manifest().digest;
  image.pixels = preprocess(std::move(picture), plan_);
  image.preprocess_ms = milliseconds_since(start);
  image.pictures.push_back(std::make_shared<std::optional<TowerOutput>>());
  return image;
}

Image Model::join(const std::vector<const Image*>& pictures) const {
  require_pictures(bundle_->manifest(), pictures.size());
  Image out;
  out.digest = bundle_->manifest().digest;
  for (const Image* picture : pictures) {
    if (picture->digest != out.digest) {
      throw usage_error("a picture was prepared for another bundle; prepare it with this one");
    }
    if (picture->pictures.size() != 1) throw usage_error("a picture is several already; give each one alone");
    out.pixels.insert(out.pixels.end(), picture->pixels.begin(), picture->pixels.end());
    out.pictures.push_back(picture->pictures[0]);
    out.preprocess_ms += picture->preprocess_ms;
  }
  return out;
}

InUse Model::begin() { return InUse(in_use_, cancelled_); }

void Model::forget() {
  const InUse held = begin();
  cache_.forget();
}

void Model::require_image(const Image& image) const {
  if (image.digest != bundle_->manifest().digest) {
    throw usage_error("the image was prepared for another bundle; prepare it with this one");
  }
  require_pictures(bundle_->manifest(), image.pictures.size());
}

void Model::require_request(const Request& request) const {
  if ((request.budget != 0) + request.is_limited() + request.elbow > 1) {
    throw usage_error("a budget, limits and a signal exclude each other; give one of them");
  }
  if (request.max_new_tokens < 0 || request.max_new_tokens > limits::NEW_TOKENS) {
    throw usage_error("max_new_tokens " + std::to_string(request.max_new_tokens) + " is outside 1.." +
                      std::to_string(limits::NEW_TOKENS));
  }
  require_sampling(request.sampling);
  require_weights(bundle_->manifest(), request.weights);
}

void Model::require_ids(const Ids& ids) const {
  const auto vocabulary = bundle_->manifest().text.vocabulary;
  for (const auto id : ids) {
    if (id >= 0 && id < vocabulary) continue;
    throw input_error("token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(vocabulary));
  }
}

void Model::require(const Image& image, const Prompt& prompt, const Request& request) const {
  require_request(request);
  require_image(image);
  if (prompt.size() < prompt.question_first || prompt.size() - prompt.question_first < prompt.question_count) {
    throw usage_error("the question lies outside the prompt's " + std::to_string(prompt.size()) + " tokens");
  }
  std::int64_t most = 0;
  for (const auto& rung : runtime_.ladder()) most = std::max(most, rung.prompt_tokens);
  require_fits(prompt, most);
  require_ids(prompt.before);
  require_ids(prompt.after);
}

// The bundle's own, where its certificate speaks of what is asked.
const Controller* Model::controller() const {
  const auto& found = bundle_->manifest().controller;
  if (!found || found->flavour != runtime_.flavour()) return nullptr;
  const auto is_loaded = [&](std::int64_t budget) {
    return std::any_of(runtime_.ladder().begin(), runtime_.ladder().end(),
                       [&](const Rung& rung) { return rung.budget == budget; });
  };
  const bool all = std::all_of(found->rules.begin(), found->rules.end(),
                               [&](const Rule& rule) { return is_loaded(rule.budget); });
  return all && is_loaded(found->full) ? &*found : nullptr;
}

Decision Model::choose(const Request& request, const Signals& signals, const Ids& question, bool certified) const {
  const auto& ladder = runtime_.ladder();
  if (request.budget != 0) return choose_fixed(ladder, request.budget);
  if (request.is_limited()) return choose_within(ladder, request.limits);
  if (request.elbow) return choose_elbow(ladder, signals);
  const bool greedy = request.sampling.temperature == 0;  // it was certified on such answers
  const Controller* own = certified && greedy ? controller() : nullptr;
  if (own != nullptr) return choose_certified(*own, signals, question);
  return choose_largest(ladder);
}

void Model::encode(Image& image, std::int64_t budget, Timings& timings) {
  if (image.tower && (!image.tower->budget || *image.tower->budget == budget)) return;
  const Watch watch(timings.tower);
  image.tower = encode_pictures(runtime_, bundle_->manifest(), image.pixels, image.pictures, budget);
}

std::shared_ptr<const VisualTokens> Model::compress(Image& image, std::int64_t budget, const Prompt& prompt,
                                                    const std::vector<float>& weights) {
  const auto make = [&] {
    return std::make_shared<const VisualTokens>(runtime_.compress(*image.tower, budget, prompt, weights));
  };
  if (runtime_.reads_prompt() || !weights.empty()) return make();
  auto& made = image.tokens[budget];
  if (!made) made = make();
  return made;
}

Decision Model::look(Image& image, const Prompt& prompt, const Request& request, bool certified, Timings& timings) {
  const Ids question = prompt.question();
  std::optional<Decision> decision;
  if (runtime_.has_tower_per_rung()) decision = choose(request, {}, question, certified);  // its tower is known then
  encode(image, decision ? decision->budget : runtime_.ladder().back().budget, timings);
  return decision ? *decision : choose(request, image.tower->signals, question, certified);
}

// What a rung makes of the image and the prompt.
PromptRows Model::rows(Image& image, const Prompt& prompt, const Request& request, std::int64_t budget, Answer& out) {
  require_fits(prompt, runtime_.rung(budget).prompt_tokens);
  encode(image, budget, out.timings);
  out.signals = image.tower->signals;
  const Watch watch(out.timings.compress);
  PromptRows rows{prompt, compress(image, budget, prompt, request.weights), prompt.after.size()};
  out.kept = rows.visual->kept;
  out.tried.push_back(budget);
  return rows;
}

PromptRows Model::open(Image& image, const Prompt& prompt, const Request& request, Answer& out) {
  require(image, prompt, request);
  const Decision decision = look(image, prompt, request, false, out.timings);
  out.reason = decision.reason;
  out.timings.preprocess = image.preprocess_ms;
  return rows(image, prompt, request, decision.budget, out);
}

// Logits of the last of these rows, which the cache holds then.
const float* Model::fill(const PromptRows& rows, std::int64_t budget, Answer& out) {
  std::vector<float> embeds;
  {
    const Watch watch(out.timings.embed);
    embeds = runtime_.embed(rows.text, *rows.visual);
  }
  const Watch watch(out.timings.prefill);
  const PromptCache::Filled filled = cache_.fill(budget, rows, embeds);
  out.reused = filled.reused;
  out.exit_layer = runtime_.exit_layer().value_or(-1);
  return filled.logits;
}

// Notes the next token; false where there is none, or none behind it.
bool Model::take_token(const float* logits, Sampler& sampler, Answer& out) {
  const auto& text = bundle_->manifest().text;
  const auto count = static_cast<std::size_t>(text.vocabulary);
  if (!are_finite(logits, count)) {
    out.stop = Stop::numeric;
    cache_.forget();  // whatever went wrong, no other answer shall begin with it
    return false;
  }
  const std::int64_t token = sampler.choose(logits, count);
  if (out.tokens.empty()) out.first_margin = margin(logits, count);
  out.log_probability_sum += edgetok_impl::log_probability(logits, count, token);
  out.tokens.push_back(token);
  const bool ends = std::find(text.stop_ids.begin(), text.stop_ids.end(), token) != text.stop_ids.end();
  if (ends) out.stop = Stop::stop;
  return !ends;
}

// Tells the token that was taken, and takes `more`.
void Model::decode(const Request& request, Sampler& sampler, const OnToken& on_token, bool more, Answer& out) {
  const auto rung_tokens = runtime_.rung(out.tried.back()).new_tokens();
  const auto most = static_cast<std::size_t>(request.max_new_tokens != 0 ? request.max_new_tokens : rung_tokens);
  const Watch watch(out.timings.decode);
  while (true) {
    if (out.stop == Stop::numeric) return;
    if (on_token && !on_token(out.tokens.back())) {
      if (more) out.stop = Stop::cancelled;
      return;
    }
    if (!more) return;
    if (cancelled_ || out.tokens.size() >= most || runtime_.rows_left() < 1) {
      out.stop = cancelled_ ? Stop::cancelled : out.tokens.size() >= most ? Stop::length : Stop::cache;
      return;
    }
    more = take_token(cache_.step(out.tokens.back()), sampler, out);
  }
}

// What `generate` of transformers would be given.
Ids Model::ids_of(const PromptRows& rows) const {
  Ids out = rows.text.before;
  const auto& image_id = bundle_->manifest().generation.image_id;
  if (image_id) out.insert(out.end(), rows.visual->kept.size(), *image_id);
  out.insert(out.end(), rows.text.after.begin(), rows.text.after.end());
  return out;
}

void Model::run(const PromptRows& rows, const Request& request, const OnToken& on_token, Clock::time_point start,
                Answer& out) {
  Sampler sampler(request.sampling, bundle_->manifest(), ids_of(rows));
  const bool more = take_token(fill(rows, out.tried.back(), out), sampler, out);
  out.timings.ttft = milliseconds_since(start);
  decode(request, sampler, on_token, more, out);
}

Answer Model::generate(Image& image, const Prompt& prompt, const Request& request) {
  const auto start = Clock::now();
  const InUse held = begin();
  require(image, prompt, request);
  Timings first;
  Decision decision = look(image, prompt, request, true, first);
  Ids tried;
  while (true) {
    Answer out;
    out.tried = tried;
    const PromptRows asked = rows(image, prompt, request, decision.budget, out);
    const bool reviewed = static_cast<bool>(decision.review);  // nothing is said before it is taken
    run(asked, request, reviewed ? OnToken() : request.on_token, start, out);
    if (reviewed && out.stop != Stop::cancelled) {
      if (const auto following = decision.review(signals_of(out))) {
        tried = out.tried;
        decision = Decision(*following);
        continue;
      }
      out.timings.ttft = milliseconds_since(start);
    }
    if (reviewed && request.on_token) {
      for (const auto token : out.tokens) {
        if (!request.on_token(token)) break;
      }
    }
    out.reason = decision.reason;
    out.timings.tower += first.tower;
    out.timings.preprocess = image.preprocess_ms;
    return out;
  }
}

}  // namespace edgetok_impl
