#include "model.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "generated.hpp"

namespace edgetok_impl {

namespace {

using Clock = std::chrono::steady_clock;

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

// Held while a model answers; waiting instead would deadlock who calls from a callback.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& in_use) : in_use_(in_use) {
    if (in_use_.exchange(true)) {
      throw usage_error("this model is answering already and has one KV cache; wait, or load the bundle again");
    }
  }
  ~Turn() { in_use_ = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& in_use_;
};

bool are_finite(const float* values, std::size_t count) {
  return std::all_of(values, values + count, [](float v) { return std::isfinite(v); });
}

// The largest logit and the next largest; ties go to the lower id.
struct Best {
  std::size_t first = 0;
  double peak = 0, second = 0, sum = 0;  // sum: of exp(logit - peak)
};

Best find_best(const float* logits, std::size_t count) {
  Best best;
  best.first = static_cast<std::size_t>(std::max_element(logits, logits + count) - logits);
  best.peak = static_cast<double>(logits[best.first]);
  best.second = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < count; ++i) {
    const double logit = static_cast<double>(logits[i]);
    best.sum += std::exp(logit - best.peak);
    if (i != best.first) best.second = std::max(best.second, logit);
  }
  return best;
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

void require_ids(const Ids& ids, std::int64_t vocabulary) {
  for (const auto id : ids) {
    if (id >= 0 && id < vocabulary) continue;
    throw input_error("token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(vocabulary));
  }
}

}  // namespace

double Answer::log_probability() const {
  return tokens.empty() ? 0 : log_probability_sum / static_cast<double>(tokens.size());
}

Model::Model(std::shared_ptr<const Bundle> bundle, const LoadOptions& options)
    : bundle_(std::move(bundle)),
      plan_(parse_image_plan(bundle_->read("processor/image.json"))),
      runtime_(*bundle_, options) {}

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

void Model::require(const Image& image, const Prompt& prompt, const Request& request) const {
  const bool limited = request.limits.max_ttft_ms > 0 || request.limits.max_memory_mib > 0;
  if ((request.budget != 0) + limited + request.elbow > 1) {
    throw usage_error("a budget, limits and a signal exclude each other; give one of them");
  }
  if (request.max_new_tokens < 0 || request.max_new_tokens > limits::NEW_TOKENS) {
    throw usage_error("max_new_tokens " + std::to_string(request.max_new_tokens) + " is outside 1.." +
                      std::to_string(limits::NEW_TOKENS));
  }
  if (image.digest != bundle_->manifest().digest) {
    throw usage_error("the image was prepared for another bundle; prepare it with this one");
  }
  require_pictures(bundle_->manifest(), image.pictures.size());
  require_weights(bundle_->manifest(), request.weights);
  if (prompt.size() < prompt.question_first || prompt.size() - prompt.question_first < prompt.question_count) {
    throw usage_error("the question lies outside the prompt's " + std::to_string(prompt.size()) + " tokens");
  }
  std::int64_t most = 0;
  for (const auto& rung : runtime_.ladder()) most = std::max(most, rung.prompt_tokens);
  require_fits(prompt, most);
  require_ids(prompt.before, bundle_->manifest().text.vocabulary);
  require_ids(prompt.after, bundle_->manifest().text.vocabulary);
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

Decision Model::choose(const Request& request, const Signals& signals, const Ids& question) const {
  const auto& ladder = runtime_.ladder();
  if (request.budget != 0) return choose_fixed(ladder, request.budget);
  if (request.limits.max_ttft_ms > 0 || request.limits.max_memory_mib > 0) return choose_within(ladder, request.limits);
  if (request.elbow) return choose_elbow(ladder, signals);
  if (const Controller* own = controller()) return choose_certified(*own, signals, question);
  return choose_largest(ladder);
}

void Model::encode(Image& image, std::int64_t budget, Timings& timings) {
  if (image.tower && (!image.tower->budget || *image.tower->budget == budget)) return;
  const Watch watch(timings.tower);
  image.tower = encode_pictures(runtime_, bundle_->manifest(), image.pixels, image.pictures, budget);
}

const VisualTokens& Model::compress(Image& image, std::int64_t budget, const Prompt& prompt,
                                    const std::vector<float>& weights) {
  if (runtime_.reads_prompt() || !weights.empty()) {
    return scratch_ = runtime_.compress(*image.tower, budget, prompt, weights);
  }
  const auto found = image.tokens.find(budget);
  if (found != image.tokens.end()) return found->second;
  return image.tokens[budget] = runtime_.compress(*image.tower, budget, prompt, {});
}

// Notes the next token; false where there is none, or none behind it.
bool Model::take_token(const float* logits, Answer& answer) const {
  const auto& text = bundle_->manifest().text;
  const auto count = static_cast<std::size_t>(text.vocabulary);
  if (!are_finite(logits, count)) {
    answer.stop = Stop::numeric;
    return false;
  }
  const Best best = find_best(logits, count);
  if (answer.tokens.empty()) {
    answer.first_margin = count < 2 ? 1.0 : (1.0 - std::exp(best.second - best.peak)) / best.sum;
  }
  answer.log_probability_sum -= std::log(best.sum);  // of the likeliest: exp(0) of that sum
  answer.tokens.push_back(static_cast<std::int64_t>(best.first));
  const bool ends = std::find(text.stop_ids.begin(), text.stop_ids.end(), answer.tokens.back()) != text.stop_ids.end();
  if (ends) answer.stop = Stop::stop;
  return !ends;
}

Answer Model::answer(Image& image, const Prompt& prompt, const Request& request, std::int64_t budget,
                     const std::function<bool(std::int64_t)>& on_token, const std::function<double()>& elapsed) {
  const Rung& rung = runtime_.rung(budget);
  require_fits(prompt, rung.prompt_tokens);
  const auto most = static_cast<std::size_t>(request.max_new_tokens != 0 ? request.max_new_tokens : rung.new_tokens());
  Answer out;
  encode(image, budget, out.timings);
  out.signals = image.tower->signals;
  const float* logits = nullptr;
  {
    const auto visual = [&]() -> const VisualTokens& {
      const Watch watch(out.timings.compress);
      return compress(image, budget, prompt, request.weights);
    };
    const VisualTokens& tokens = visual();
    out.kept = tokens.kept;
    std::vector<float> rows;
    {
      const Watch watch(out.timings.embed);
      rows = runtime_.embed(prompt, tokens);
    }
    const Watch watch(out.timings.prefill);
    logits = runtime_.prefill(budget, rows, prompt, tokens);
    out.exit_layer = runtime_.exit_layer().value_or(-1);
  }
  bool more = take_token(logits, out);
  out.timings.ttft = elapsed();
  const auto say = [&] { return !on_token || out.tokens.empty() || on_token(out.tokens.back()); };
  const Watch watch(out.timings.decode);
  while (true) {
    if (out.stop != Stop::numeric && !say()) {
      if (more) out.stop = Stop::cancelled;
      return out;
    }
    if (!more) return out;
    if (cancelled_ || out.tokens.size() >= most || runtime_.rows_left() < 1) {
      out.stop = cancelled_ ? Stop::cancelled : out.tokens.size() >= most ? Stop::length : Stop::cache;
      return out;
    }
    more = take_token(runtime_.step(out.tokens.back()), out);
  }
}

Answer Model::generate(Image& image, const Prompt& prompt, const Request& request) {
  const Turn turn(in_use_);
  require(image, prompt, request);
  cancelled_ = false;
  const auto start = Clock::now();
  const auto elapsed = [start] { return milliseconds_since(start); };
  const Ids question = prompt.question();
  Timings first;
  std::optional<Decision> decision;
  if (runtime_.has_tower_per_rung()) decision = choose(request, {}, question);  // its tower is known only then
  encode(image, decision ? decision->budget : runtime_.ladder().back().budget, first);
  const Signals signals = image.tower->signals;
  if (!decision) decision = choose(request, signals, question);
  Ids tried;
  while (true) {
    tried.push_back(decision->budget);
    const bool reviewed = static_cast<bool>(decision->review);  // nothing is said before it is taken
    Answer found = answer(image, prompt, request, decision->budget,
                          reviewed ? std::function<bool(std::int64_t)>() : request.on_token, elapsed);
    if (reviewed && found.stop != Stop::cancelled) {
      if (const auto following = decision->review(signals_of(found))) {
        decision = Decision(*following);
        continue;
      }
      found.timings.ttft = elapsed();
    }
    if (reviewed && request.on_token) {
      for (const auto token : found.tokens) {
        if (!request.on_token(token)) break;
      }
    }
    found.tried = tried;
    found.reason = decision->reason;
    found.timings.tower += first.tower;
    found.timings.preprocess = image.preprocess_ms;
    return found;
  }
}

}  // namespace edgetok_impl
