#include "tokens.hpp"

namespace edgetok_impl {

Ids Prompt::all() const {
  Ids out = before;
  out.insert(out.end(), after.begin(), after.end());
  return out;
}

Ids Prompt::question() const {
  const Ids ids = all();
  const auto first = ids.begin() + static_cast<std::ptrdiff_t>(question_first);
  return {first, first + static_cast<std::ptrdiff_t>(question_count)};
}

}  // namespace edgetok_impl
