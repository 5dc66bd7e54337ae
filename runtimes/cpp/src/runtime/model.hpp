// From an image and a prompt to an answer, token by token; one at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "images/picture.hpp"
#include "runtime/pictures.hpp"
#include "runtime/reuse.hpp"
#include "runtime/runtime.hpp"
#include "runtime/sampling.hpp"

namespace edgetok_impl {

using Clock = std::chrono::steady_clock;
using OnToken = std::function<bool(std::int64_t token)>;  // false cancels

// A prepared image, and what the model made of it so far.
struct Image {
  std::string digest;  // of the bundle that it was prepared for
  std::vector<float> pixels;
  double preprocess_ms = 0;
  std::vector<Seen> pictures;        // of a prompt; what the tower made of each, if there are several
  std::optional<TowerOutput> tower;  // and of all
  std::map<std::int64_t, std::shared_ptr<const VisualTokens>> tokens;  // by budget, unless the question matters
};

struct Request {
  std::int64_t budget = 0;
  Limits limits;
  bool elbow = false;
  std::int64_t max_new_tokens = 0;
  Sampling sampling;
  std::vector<float> weights;  // of each picture; none: all alike
  OnToken on_token;  // may be empty

  bool is_limited() const { return limits.max_ttft_ms > 0 || limits.max_memory_mib > 0; }
};

enum class Stop { stop, length, cache, numeric, cancelled };

struct Timings {
  double preprocess = 0, tower = 0, compress = 0, embed = 0, prefill = 0, ttft = 0, decode = 0;  // ms
};

struct Answer {
  Ids tokens, kept, tried;
  Stop stop = Stop::stop;
  std::string reason;
  double first_margin = -1;
  double log_probability_sum = 0;
  std::size_t reused = 0;  // rows of the prompt that the cache held already
  Signals signals;               // what the tower said about the image
  std::int64_t exit_layer = -1;  // see Runtime::exit_layer; -1 for none
  Timings timings;

  double log_probability() const;
};

// Held while a model answers; waiting instead would deadlock who calls from a callback.
class InUse {
 public:
  InUse(std::atomic<bool>& flag, std::atomic<bool>& cancelled);
  ~InUse() { flag_ = false; }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic<bool>& flag_;
};

class Model {
 public:
  Model(std::shared_ptr<const Bundle> bundle, const LoadOptions& options);

  const Bundle& bundle() const { return *bundle_; }
  const Runtime& runtime() const { return runtime_; }
  Image prepare(Picture picture) const;
  // Several pictures as one image, which asks the tower about those only that it has not seen.
  Image join(const std::vector<const Image*>& pictures) const;
  Answer generate(Image& image, const Prompt& prompt, const Request& request);
  // Has the next answer computed from its first row on, for the measure of it.
  void forget();
  void cancel() { cancelled_ = true; }

  // ---- the steps of an answer, for conversations as well ----
  // Keeps all others from the model; throws Error(usage) if one answers already.
  InUse begin();
  // The rows of a first turn on the rung that is chosen, which is the last of `out.tried`.
  PromptRows open(Image& image, const Prompt& prompt, const Request& request, Answer& out);
  // Everything from the rows on. Where it throws, `out` has the tokens that there were.
  void run(const PromptRows& rows, const Request& request, const OnToken& on_token, Clock::time_point start,
           Answer& out);
  void require_image(const Image& image) const;
  void require_request(const Request& request) const;
  void require_ids(const Ids& ids) const;

 private:
  void require(const Image& image, const Prompt& prompt, const Request& request) const;
  Decision choose(const Request& request, const Signals& signals, const Ids& question, bool certified) const;
  // The rung to begin with, for which the image has been through the tower.
  Decision look(Image& image, const Prompt& prompt, const Request& request, bool certified, Timings& timings);
  const Controller* controller() const;
  void encode(Image& image, std::int64_t budget, Timings& timings);
  std::shared_ptr<const VisualTokens> compress(Image& image, std::int64_t budget, const Prompt& prompt,
                                               const std::vector<float>& weights);
  PromptRows rows(Image& image, const Prompt& prompt, const Request& request, std::int64_t budget, Answer& out);
  const float* fill(const PromptRows& rows, std::int64_t budget, Answer& out);
  Ids ids_of(const PromptRows& rows) const;
  bool take_token(const float* logits, Sampler& sampler, Answer& out);
  void decode(const Request& request, Sampler& sampler, const OnToken& on_token, bool more, Answer& out);

  std::shared_ptr<const Bundle> bundle_;
  ImagePlan plan_;
  Runtime runtime_;
  PromptCache cache_;
  std::atomic<bool> in_use_{false}, cancelled_{false};
};

}  // namespace edgetok_impl
