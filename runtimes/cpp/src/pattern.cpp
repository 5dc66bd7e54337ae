#include "pattern.hpp"

#include <oniguruma.h>

#include <memory>
#include <mutex>

#include "error.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

const unsigned kStack = 1u << 20;      // entries of what may be tried again; a match of `tokenizers` has no limit
const unsigned long kSteps = 10'000'000;  // Oniguruma's own limit for one match, here of a whole search

std::string explain(int code, const OnigErrorInfo* info = nullptr) {
  OnigUChar out[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = info == nullptr ? onig_error_code_to_str(out, code) : onig_error_code_to_str(out, code, info);
  return std::string(reinterpret_cast<const char*>(out), static_cast<std::size_t>(length));
}

const OnigUChar* begin_of(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

void initialize() {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
  });
}

struct FreeRegion {
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};
struct FreeLimits {
  void operator()(OnigMatchParam* limits) const { onig_free_match_param(limits); }
};

using Limits = std::unique_ptr<OnigMatchParam, FreeLimits>;

Limits make_limits() {
  Limits out(onig_new_match_param());
  if (out == nullptr) throw std::bad_alloc();
  onig_set_match_stack_limit_size_of_match_param(out.get(), kStack);
  onig_set_retry_limit_in_match_of_match_param(out.get(), kSteps);
  onig_set_retry_limit_in_search_of_match_param(out.get(), kSteps);
  return out;
}

std::size_t next_character(std::string_view text, std::size_t at) {
  do {
    ++at;
  } while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

void add(std::vector<Range>& out, std::size_t begin, std::size_t end) {
  if (begin < end) out.push_back({begin, end});
}

}  // namespace

void require_patterns() {}

Pattern::Pattern(const std::string& expression) {
  initialize();
  OnigErrorInfo info;
  regex_t* made = nullptr;
  const auto* first = begin_of(expression);
  const int code = onig_new(&made, first, first + expression.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                            ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    throw bundle_error("processor/tokenizer.json: the pattern `" + shorten(expression) + "` cannot be read: " +
                       explain(code, &info));
  }
  compiled_ = made;
}

Pattern::~Pattern() {
  if (compiled_ != nullptr) onig_free(static_cast<regex_t*>(compiled_));
}

Pattern::Pattern(Pattern&& other) noexcept : compiled_(other.compiled_) { other.compiled_ = nullptr; }

std::vector<Range> Pattern::isolate(std::string_view text) const {
  const std::unique_ptr<OnigRegion, FreeRegion> region(onig_region_new());
  if (region == nullptr) throw std::bad_alloc();
  const Limits limits = make_limits();
  const auto* first = begin_of(text);
  const auto* last = first + text.size();
  std::vector<Range> out;
  std::size_t done = 0, at = 0;
  bool matched = false;  // an empty match right behind another one is none
  while (at <= text.size()) {
    const int found = onig_search_with_param(static_cast<regex_t*>(compiled_), first, last, first + at, last,
                                             region.get(), ONIG_OPTION_NONE, limits.get());
    if (found == ONIG_MISMATCH) break;
    if (found < 0) {
      throw input_error("the tokenizer's pattern gave up at byte " + std::to_string(at) + " of the prompt (" +
                        explain(found) + "); shorten it");
    }
    const auto begin = static_cast<std::size_t>(region->beg[0]), end = static_cast<std::size_t>(region->end[0]);
    if (begin == end && matched && end == done) {
      at = next_character(text, at);
      continue;
    }
    add(out, done, begin);
    add(out, begin, end);
    at = done = end;
    matched = true;
  }
  add(out, done, text.size());
  return out;
}

}  // namespace edgetok_impl
