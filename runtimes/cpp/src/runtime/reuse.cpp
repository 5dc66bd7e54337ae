#include "runtime/reuse.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "generated.hpp"

namespace edgetok_impl {

namespace {

bool is_text(std::int64_t key) { return key >= 0; }

bool are_text(const Ids& keys, std::size_t from) {
  return std::all_of(keys.begin() + static_cast<std::ptrdiff_t>(from), keys.end(), is_text);
}

// Whether they are the same bits, wherever they came from.
bool are_same(const VisualTokens* a, const VisualTokens* b) {
  if (a == b) return true;
  if (a == nullptr || b == nullptr || a->rows.size() != b->rows.size()) return false;
  return std::memcmp(a->rows.data(), b->rows.data(), a->rows.size() * sizeof(float)) == 0;
}

std::size_t as_size(std::int64_t number) { return static_cast<std::size_t>(number); }
std::int64_t as_count(std::size_t number) { return static_cast<std::int64_t>(number); }

}  // namespace

Ids PromptRows::keys() const {
  Ids out = text.before;
  for (std::size_t i = 0; i < visual->kept.size(); ++i) out.push_back(-1 - as_count(i));
  out.insert(out.end(), text.after.begin(), text.after.end());
  return out;
}

void HeldRows::begin(const PromptRows& rows, std::size_t count) {
  keys_ = rows.keys();
  keys_.resize(count);
  visual_ = rows.visual;
  known_ = true;
}

void HeldRows::append(std::int64_t token) {
  if (known_) keys_.push_back(token);
}

void HeldRows::append(const Ids& keys, std::size_t from, std::size_t until) {
  for (std::size_t i = from; i < until; ++i) append(keys[i]);
}

void HeldRows::forget() {
  keys_.clear();
  visual_.reset();
  known_ = false;
}

std::size_t HeldRows::count_shared(const PromptRows& rows) const {
  const Ids keys = rows.keys();
  const std::size_t most = std::min(keys.size(), keys_.size());
  const bool same_image = are_same(visual_.get(), rows.visual.get());
  std::size_t shared = 0;
  while (shared < most && keys[shared] == keys_[shared] && (same_image || is_text(keys[shared]))) ++shared;
  return shared;
}

PromptCache::Filled PromptCache::fill(std::int64_t budget, const PromptRows& rows, const std::vector<float>& embeds) {
  const std::size_t held = count_held(rows), opening = rows.opening();
  const Ids keys = rows.keys();
  const double fresh = static_cast<double>(runtime_.prefill_cost(budget, opening)) + choose_chunks(opening, keys).cost;
  if (held != 0 && choose_chunks(held, keys).cost <= fresh) return {extend(rows, held, embeds), held};
  held_.forget();  // while it runs, and where it fails
  const auto end = embeds.begin() + static_cast<std::ptrdiff_t>(embeds.size() / rows.size() * opening);
  Prompt first = rows.text;
  first.after.resize(rows.first_turn);
  const float* logits = runtime_.prefill(budget, {embeds.begin(), end}, first, *rows.visual);
  held_.begin(rows, opening);
  return {rows.size() > opening ? extend(rows, opening, embeds) : logits, 0};
}

// How many of the first rows need not be computed again; fewer than all of them.
std::size_t PromptCache::count_held(const PromptRows& rows) const {
  if (!runtime_.may_reuse()) return 0;
  const std::size_t shared = std::min(held_.count_shared(rows), rows.size() - 1);
  const bool text_follows = are_text(rows.keys(), shared);
  const auto sizes = runtime_.chunk_sizes();
  if (runtime_.may_rewind()) return text_follows || (!sizes.empty() && rows.size() >= sizes[0]) ? shared : 0;
  // Rows that are gone were chosen by all that came before: only more can be put behind.
  return text_follows && shared == held_.size() ? shared : 0;
}

const float* PromptCache::extend(const PromptRows& rows, std::size_t start, const std::vector<float>& embeds) {
  if (start < 1 || start > count_held(rows)) {
    throw usage_error("the cache does not hold the first " + std::to_string(start) +
                      " rows of this prompt: a model that reads a prompt in both directions has one turn");
  }
  const Ids keys = rows.keys();
  const std::size_t width = embeds.size() / keys.size();
  if (runtime_.may_rewind()) {
    runtime_.rewind(as_count(start));
    held_.begin(rows, start);  // visual rows that come are of another image, perhaps
  }
  runtime_.require_left(as_count(keys.size() - start));
  const float* logits = nullptr;
  const Chunks chunks = choose_chunks(start, keys);
  std::size_t next = start;
  for (const std::size_t count : chunks.widths) {
    const std::size_t at = std::min(next, keys.size() - chunks.steps - count);
    next += count;
    if (at < held_.size()) {  // some rows are written once more
      runtime_.rewind(as_count(at));
      held_.cut(at);
    }
    logits = runtime_.put(embeds.data() + at * width, count);
    held_.append(keys, at, at + count);
  }
  while (held_.size() < keys.size()) logits = step(keys[held_.size()]);  // text, as `count_held` requires
  return logits;
}

Chunks PromptCache::choose_chunks(std::size_t start, const Ids& keys) const {
  std::size_t steps = 0;
  while (steps < keys.size() - start && is_text(keys[keys.size() - 1 - steps])) ++steps;
  return edgetok_impl::choose_chunks(start, keys.size(), runtime_.chunk_sizes(), runtime_.may_rewind(), steps);
}

const float* PromptCache::step(std::int64_t token) {
  const float* logits = runtime_.step(token);
  held_.append(token);
  return logits;
}

Chunks choose_chunks(std::size_t start, std::size_t stop, const std::vector<std::size_t>& sizes, bool overlapping,
                     std::size_t steps) {
  std::vector<Chunks> best(1);
  for (std::size_t rows = 1; rows <= stop - start; ++rows) {
    Chunks found{std::numeric_limits<double>::infinity(), {}, 0};
    if (rows <= steps) found = {static_cast<double>(as_size(costs::STEP_COST) * rows), {}, rows};
    for (const std::size_t width : sizes) {
      if (width > rows && !(overlapping && width <= stop)) continue;
      const Chunks& before = best[rows > width ? rows - width : 0];
      const double cost = before.cost + static_cast<double>(as_size(costs::CALL_COST) + width);
      if (cost >= found.cost) continue;
      found = {cost, before.widths, before.steps};
      found.widths.push_back(width);
    }
    best.push_back(std::move(found));
  }
  std::sort(best.back().widths.rbegin(), best.back().widths.rend());
  return best.back();
}

}  // namespace edgetok_impl
