// From an image and a prompt to an answer, token by token; one at a time.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "picture.hpp"
#include "pictures.hpp"
#include "runtime.hpp"

namespace edgetok_impl {

// A prepared image, and what the model made of it so far.
struct Image {
  std::string digest;  // of the bundle that it was prepared for
  std::vector<float> pixels;
  double preprocess_ms = 0;
  std::vector<Seen> pictures;        // of a prompt; what the tower made of each, if there are several
  std::optional<TowerOutput> tower;  // and of all
  std::map<std::int64_t, VisualTokens> tokens;  // by budget, unless they depend on the question
};

struct Request {
  std::int64_t budget = 0;
  Limits limits;
  bool elbow = false;
  std::int64_t max_new_tokens = 0;
  std::vector<float> weights;  // of each picture; none: all alike
  std::function<bool(std::int64_t token)> on_token;  // false cancels; may be empty
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
  Signals signals;               // what the tower said about the image
  std::int64_t exit_layer = -1;  // see Runtime::exit_layer; -1 for none
  Timings timings;

  double log_probability() const;
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
  void cancel() { cancelled_ = true; }

 private:
  void require(const Image& image, const Prompt& prompt, const Request& request) const;
  Decision choose(const Request& request, const Signals& signals, const Ids& question) const;
  const Controller* controller() const;
  void encode(Image& image, std::int64_t budget, Timings& timings);
  const VisualTokens& compress(Image& image, std::int64_t budget, const Prompt& prompt,
                               const std::vector<float>& weights);
  bool take_token(const float* logits, Answer& answer) const;
  Answer answer(Image& image, const Prompt& prompt, const Request& request, std::int64_t budget,
                const std::function<bool(std::int64_t)>& on_token, const std::function<double()>& elapsed);

  std::shared_ptr<const Bundle> bundle_;
  ImagePlan plan_;
  Runtime runtime_;
  VisualTokens scratch_;
  std::atomic<bool> in_use_{false}, cancelled_{false};
};

}  // namespace edgetok_impl
