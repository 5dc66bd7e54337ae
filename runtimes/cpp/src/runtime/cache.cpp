#include "runtime/cache.hpp"

#include <algorithm>

#include "generated.hpp"

namespace edgetok_impl {

CacheRows::CacheRows(const Kv& kv, std::int64_t max_positions)
    : slots_(kv.slots),
      keep_(kv.keep.empty() ? kv.slots : kv.keep),
      lengths_(kv.slots.size()),
      ends_(kv.keep.empty()),
      renumbered_(kv.positions == "renumbered"),
      max_positions_(max_positions) {}

void CacheRows::begin(std::int64_t rows, const std::vector<std::int64_t>& removed, std::int64_t shift) {
  for (std::size_t i = 0; i < lengths_.size(); ++i) {
    const std::int64_t held = rows - removed[i];
    lengths_[i] = held > slots_[i] ? keep_[i] : held;
  }
  position_ = rows;
  shift_ = shift;
}

void CacheRows::append(std::int64_t count) {
  for (auto& length : lengths_) length += count;
  position_ += count;
}

void CacheRows::rewind(std::int64_t rows) { begin(rows, std::vector<std::int64_t>(lengths_.size()), 0); }

bool CacheRows::are_whole() const {
  return std::all_of(lengths_.begin(), lengths_.end(), [&](std::int64_t length) { return length == position_; });
}

void CacheRows::compact(std::size_t layer) { lengths_[layer] = keep_[layer]; }

std::int64_t CacheRows::position(std::size_t layer) const {
  return renumbered_ ? lengths_[layer] : position_ + shift_;
}

std::int64_t CacheRows::left() const {
  if (!ends_) return renumbered_ ? limits::NEW_TOKENS : max_positions_ - position_;
  std::int64_t slots = slots_[0] - lengths_[0], furthest = position(0);
  for (std::size_t i = 1; i < lengths_.size(); ++i) {
    slots = std::min(slots, slots_[i] - lengths_[i]);
    furthest = std::max(furthest, position(i));
  }
  return std::min(slots, max_positions_ - furthest);
}

}  // namespace edgetok_impl
