// Runtime's calls that put rows behind those that the KV cache holds, many at a time.
#include <algorithm>

#include "generated.hpp"
#include "runtime/runtime.hpp"

namespace edgetok_impl {

std::vector<std::size_t> Runtime::chunk_sizes() const {
  const auto found = graphs_.find({names::EXTEND, ladder_[0].budget});
  std::vector<std::size_t> out;
  if (found == graphs_.end()) return out;
  for (const auto& [rows, graph] : found->second) out.push_back(rows);
  return out;
}

void Runtime::require_left(std::int64_t rows) const {
  const auto left = rows_.left();
  if (left >= rows) return;
  if (!manifest_.kv.keep.empty()) {
    throw input_error(std::to_string(left) + " of the model's " + std::to_string(manifest_.text.max_positions) +
                      " positions are left, and " + std::to_string(rows) +
                      " rows are to come; ask for fewer new tokens, or export with --kv-policy streaming, "
                      "which renumbers its rows");
  }
  std::int64_t held = 0;
  for (std::size_t layer = 0; layer < rows_.layers(); ++layer) held = std::max(held, rows_.length(layer));
  const std::string state = left > 0 ? "holds " + std::to_string(held) + " rows and has room for " +
                                           std::to_string(left) + " of " + std::to_string(rows) + " more"
                                     : "is full with " + std::to_string(held) + " rows";
  throw input_error("the KV cache " + state + "; ask for fewer new tokens, or export with more (--new-tokens)");
}

const float* Runtime::put(const float* rows, std::size_t size) {
  Graph& extend = *graphs_.at({names::EXTEND, ladder_[0].budget}).at(size);
  const Buffer& input = extend.input(names::CHUNK_EMBEDS);
  const auto count = static_cast<std::int64_t>(size);
  input.write(std::vector<float>(rows, rows + input.count<float>()));
  extend.input(names::PAST_LENGTHS).write(past_lengths(count - 1));
  extend.input(names::CHUNK_POSITIONS).write(next_positions(count));
  extend.run();
  rows_.append(count);
  return extend.output(names::LOGITS).as<float>();
}

}  // namespace edgetok_impl
