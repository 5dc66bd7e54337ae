#include "conversation.hpp"

#include <algorithm>

#include "generated.hpp"
#include "prompt.hpp"

namespace edgetok_impl {

namespace {

PromptRows followed_by(PromptRows rows, const Ids& ids) {
  rows.text.after.insert(rows.text.after.end(), ids.begin(), ids.end());
  return rows;
}

void require_same_rung(const Request& request, std::int64_t budget) {
  if ((request.budget == 0 || request.budget == budget) && !request.is_limited() && !request.elbow) return;
  throw usage_error("the rung of a conversation is chosen at its first turn, and that was " + std::to_string(budget) +
                    "; ask for no other one, or begin a new conversation");
}

}  // namespace

Conversation::Conversation(std::shared_ptr<Model> model, std::shared_ptr<Image> image)
    : model_(std::move(model)), image_(std::move(image)) {
  if (parse_prompt_plan(model_->bundle().read("processor/prompt.json")).turn.empty()) {
    throw usage_error("this model's chat template writes earlier turns anew when later ones come, so this bundle "
                      "has no conversations; ask single questions");
  }
  model_->require_image(*image_);
}

Answer Conversation::ask(const Prompt& prompt, const Request& request) {
  const auto start = Clock::now();
  const InUse held = model_->begin();
  Answer out;
  const PromptRows rows = past_ ? follow(prompt, request, out) : model_->open(*image_, prompt, request, out);
  try {
    model_->run(rows, request, request.on_token, start, out);
  } catch (...) {  // what was told has been said
    note(rows, out);
    throw;
  }
  note(rows, out);
  return out;
}

// All rows up to the answer to a later turn.
PromptRows Conversation::follow(const Prompt& prompt, const Request& request, Answer& out) const {
  model_->require_request(request);
  require_same_rung(request, past_->budget);
  if (!prompt.before.empty()) {
    throw usage_error("a later turn has no image for tokens to stand before; give all of them in prompt.after");
  }
  if (prompt.after.empty()) {
    throw usage_error("a later turn has no tokens; give those from the last answer to the next in prompt.after");
  }
  model_->require_ids(prompt.after);
  const auto needed = static_cast<std::int64_t>(prompt.after.size()), left = tokens_left();
  if (needed > left) {
    throw input_error("this turn needs " + std::to_string(needed) + " tokens and " + std::to_string(left) + " of " +
                      std::to_string(capacity(past_->budget)) + " are left in the KV cache after " +
                      std::to_string(past_->turns) + " turns; shorten the question, begin a new conversation, or "
                      "export with a longer cache (--new-tokens)");
  }
  out.tried = {past_->budget};
  out.reason = past_->reason;
  out.kept = past_->rows.visual->kept;
  return followed_by(past_->rows, prompt.after);
}

void Conversation::note(const PromptRows& rows, const Answer& answer) {
  if (answer.tokens.empty()) return;
  const auto& stops = model_->bundle().manifest().text.stop_ids;
  Ids said = answer.tokens;  // the next turn begins as the template ends an answer
  if (std::find(stops.begin(), stops.end(), said.back()) != stops.end()) said.pop_back();
  past_ = Past{followed_by(rows, said), turns() + 1, answer.tried.back(), answer.reason};
}

// Rows that a conversation can have: a layer has room for what prefill takes away, too.
std::int64_t Conversation::capacity(std::int64_t budget) const {
  const Manifest& m = model_->bundle().manifest();
  if (!m.kv.keep.empty()) {  // a policy makes room; only positions may come to an end
    return m.kv.positions == "renumbered" ? limits::CACHE_SLOTS : m.text.max_positions;
  }
  const Rung& rung = model_->runtime().rung(budget);
  std::int64_t most = m.text.max_positions;
  for (std::size_t i = 0; i < m.kv.slots.size(); ++i) most = std::min(most, m.kv.slots[i] + rung.removed[i]);
  return most;
}

std::int64_t Conversation::tokens_left() const {
  if (!past_) return capacity(model_->runtime().ladder().back().budget);
  return std::max<std::int64_t>(0, capacity(past_->budget) - static_cast<std::int64_t>(past_->rows.size()));
}

}  // namespace edgetok_impl
