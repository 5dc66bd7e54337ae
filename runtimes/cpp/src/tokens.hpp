// Token ids, and prompts of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgetok_impl {

using Ids = std::vector<std::int64_t>;

// Token ids around the image, and where the user's own text is in both put together.
struct Prompt {
  Ids before, after;
  std::size_t question_first = 0, question_count = 0;

  std::size_t size() const { return before.size() + after.size(); }
  Ids all() const;
  Ids question() const;
};

}  // namespace edgetok_impl
