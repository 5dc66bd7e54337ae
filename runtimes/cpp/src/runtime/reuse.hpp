// What of a prompt the KV cache holds already, so that only the rest is computed.
#pragma once

#include <memory>

#include "runtime/runtime.hpp"

namespace edgetok_impl {

// Everything that the cache holds before an answer: ids around the visual tokens.
struct PromptRows {
  Prompt text;  // in a conversation `after` has the ids of all turns
  std::shared_ptr<const VisualTokens> visual;
  std::size_t first_turn = 0;  // how many of `after` belong to the first turn, which prefill takes at once

  std::size_t size() const { return text.size() + visual->kept.size(); }
  std::size_t opening() const { return size() - text.after.size() + first_turn; }
  // What each row is: the id of its token, or a number below 0 for each visual row.
  Ids keys() const;
};

// What the rows of a cache are, in the order in which they were written, as far as known.
class HeldRows {
 public:
  // The first so many rows of a prompt stand there.
  void begin(const PromptRows& rows, std::size_t count);
  void append(std::int64_t token);             // a row more, if the others are known
  void append(const Ids& keys, std::size_t from, std::size_t until);
  void cut(std::size_t rows) { keys_.resize(rows); }
  void forget();
  // How many of a prompt's rows, from the first on, are held.
  std::size_t count_shared(const PromptRows& rows) const;
  std::size_t size() const { return keys_.size(); }

 private:
  Ids keys_;
  std::shared_ptr<const VisualTokens> visual_;
  bool known_ = false;
};

// How rows are put after those that are held: chunks, widest first, then single steps.
struct Chunks {
  double cost = 0;  // in rows of a prefill
  std::vector<std::size_t> widths;
  std::size_t steps = 0;
};

// The cheapest way to put rows from `start` to `stop` into the cache by chunks of these sizes, ascending. With
// `overlapping` the last chunk may write rows again that stand before it; `steps` of the last rows may be put one
// by one, being text.
Chunks choose_chunks(std::size_t start, std::size_t stop, const std::vector<std::size_t>& sizes, bool overlapping,
                     std::size_t steps);

// The KV cache of a runtime, which does not compute again what it holds.
class PromptCache {
 public:
  explicit PromptCache(Runtime& runtime) : runtime_(runtime) {}

  struct Filled {
    const float* logits = nullptr;  // [W] of the last row, valid until the next call
    std::size_t reused = 0;         // rows that were held before
  };
  // Has the cache hold these rows, in the way that takes the least time.
  Filled fill(std::int64_t budget, const PromptRows& rows, const std::vector<float>& embeds);
  const float* step(std::int64_t token);
  void forget() { held_.forget(); }

 private:
  std::size_t count_held(const PromptRows& rows) const;
  const float* extend(const PromptRows& rows, std::size_t start, const std::vector<float>& embeds);
  Chunks choose_chunks(std::size_t start, const Ids& keys) const;

  Runtime& runtime_;
  HeldRows held_;
};

}  // namespace edgetok_impl
