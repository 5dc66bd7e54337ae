// Several questions about one image, each answered in the light of the turns before it.
#pragma once

#include <memory>
#include <optional>

#include "runtime/model.hpp"

namespace edgetok_impl {

// Turns about one image. Each is a prompt that begins with all of the one before it, so the KV cache
// has its rows already, unless the model has answered something else since: then they are computed
// once more. Turns that failed before their first token leave no trace.
class Conversation {
 public:
  // Throws Error(usage) if the chat template has no later turns, or the image is of another bundle.
  Conversation(std::shared_ptr<Model> model, std::shared_ptr<Image> image);

  // Answers the next turn: a whole prompt at first, then what stands between two answers, in `after`.
  Answer ask(const Prompt& prompt, const Request& request);
  const std::string& digest() const { return model_->bundle().manifest().digest; }
  std::size_t turns() const { return past_ ? past_->turns : 0; }
  // Tokens of questions and answers that the KV cache still takes.
  std::int64_t tokens_left() const;

 private:
  struct Past {  // what has been said, and what was found out at the first turn
    PromptRows rows;
    std::size_t turns = 0;
    std::int64_t budget = 0;
    std::string reason;
  };

  PromptRows follow(const Prompt& prompt, const Request& request, Answer& out) const;
  void note(const PromptRows& rows, const Answer& answer);
  std::int64_t capacity(std::int64_t budget) const;

  std::shared_ptr<Model> model_;
  std::shared_ptr<Image> image_;
  std::optional<Past> past_;
};

}  // namespace edgetok_impl
