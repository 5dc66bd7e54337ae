// How many rows the KV cache holds, layer by layer, and where the next one goes.
#pragma once

#include "bundle/manifest.hpp"

namespace edgetok_impl {

class CacheRows {
 public:
  CacheRows(const Kv& kv, std::int64_t max_positions);

  // A prompt of so many rows has been written, less what each layer had removed. A policy's prefill
  // wrote no more than the layer keeps where that is more than it holds.
  void begin(std::int64_t rows, const std::vector<std::int64_t>& removed, std::int64_t shift);
  void append(std::int64_t count = 1);  // so many rows more in every layer
  // Only the first so many rows count from now on; they must be whole.
  void rewind(std::int64_t rows);
  void compact(std::size_t layer);

  // Whether every layer has every row that was written, each in the slot of its number.
  bool are_whole() const;
  bool is_full(std::size_t layer) const { return lengths_[layer] >= slots_[layer]; }
  std::size_t layers() const { return lengths_.size(); }
  std::int64_t length(std::size_t layer) const { return lengths_[layer]; }
  // Rotary position of the next row.
  std::int64_t position(std::size_t layer) const;
  // Rows that can still be appended.
  std::int64_t left() const;

 private:
  std::vector<std::int64_t> slots_, keep_, lengths_;
  bool ends_, renumbered_;
  std::int64_t max_positions_, position_ = 0, shift_ = 0;
};

}  // namespace edgetok_impl
