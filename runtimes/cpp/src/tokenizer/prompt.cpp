#include "tokenizer/prompt.hpp"

#include <algorithm>

#include "bundle/schema.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

const char kPrompt[] = "processor/prompt.json";
const char kReplacement[] = "\xef\xbf\xbd";

Ids read_ids(const Value& list) {
  Ids out;
  for (const auto& id : list.list()) out.push_back(id.integer());
  return out;
}

Segment read_segment(const Value& value, const char* field) {
  int set = 0;
  for (const auto& [name, member] : value.object()) set += !member.is_null();
  if (set != 1) {
    throw bundle_error(std::string(kPrompt) + ": each of $." + field + " must set exactly one of ids, text and slot");
  }
  if (!value.at("ids").is_null()) return {Segment::Kind::ids, read_ids(value.at("ids")), {}};
  if (!value.at("text").is_null()) return {Segment::Kind::text, {}, value.at("text").text()};
  return {value.at("slot").text() == "image" ? Segment::Kind::image : Segment::Kind::user, {}, {}};
}

std::vector<Segment> read_segments(const Value& list, const char* field, int images) {
  std::vector<Segment> out;
  for (const auto& item : list.list()) out.push_back(read_segment(item, field));
  const auto count = [&](Segment::Kind kind) {
    return std::count_if(out.begin(), out.end(), [&](const Segment& s) { return s.kind == kind; });
  };
  const auto seen_images = count(Segment::Kind::image), seen_users = count(Segment::Kind::user);
  if (seen_images != images || seen_users != 1) {
    throw bundle_error(std::string(kPrompt) + ": $." + field + " has " + std::to_string(seen_images) +
                       " slots of images and " + std::to_string(seen_users) + " of user texts");
  }
  return out;
}

void require_user_text(const std::string& text) {
  if (const auto at = find_invalid_utf8(text); at != std::string::npos) {
    throw input_error("the prompt is not UTF-8 at byte " + std::to_string(at) + "; give valid Unicode");
  }
  if (text.size() > static_cast<std::size_t>(limits::PROMPT_BYTES)) {
    throw input_error("the prompt has " + std::to_string(text.size()) + " bytes and at most " +
                      std::to_string(limits::PROMPT_BYTES) + " are read; shorten it");
  }
}

// Text of the template and of the user that touch, until something else comes.
class Pending {
 public:
  Pending(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text, bool first)
      : plan_(plan), tokenizer_(tokenizer), user_text_(user_text), first_(first) {}

  void add(const Segment& segment) {
    const bool user = segment.kind == Segment::Kind::user;
    if (user) marked_ = {text_.size(), text_.size() + user_text_.size()};
    text_ += user ? user_text_ : segment.text;
  }

  // Puts the ids of what is pending behind `out`, and notes where the user's are in all of them.
  void flush(Ids& out, std::size_t skipped, Prompt& prompt) {
    if (!text_.empty()) {
      const Tokens found = tokenizer_.encode(text_, first_, marked_);
      require_allowed(found.ids);
      if (marked_.begin < marked_.end) find_question(found, skipped, prompt);
      out.insert(out.end(), found.ids.begin(), found.ids.end());
      first_ = false;
    }
    text_.clear();
    marked_ = {};
  }

  void not_first() { first_ = false; }

 private:
  void require_allowed(const Ids& ids) const {
    std::set<std::int64_t> found;
    for (const auto id : ids) {
      if (plan_.forbidden.count(id) != 0) found.insert(id);
    }
    if (found.empty()) return;
    throw input_error("the prompt contains the text of control tokens (ids " +
                      format_list(Ids(found.begin(), found.end())) +
                      "), which only the chat template may place; remove it");
  }

  static void find_question(const Tokens& found, std::size_t skipped, Prompt& prompt) {
    std::size_t before = 0, behind = 0;
    for (const auto& span : found.spans) {
      before += span.end <= found.marked.begin;
      behind += span.begin >= found.marked.end;
    }
    const std::size_t last = std::max(before, found.ids.size() - behind);
    prompt.question_first = skipped + before;
    prompt.question_count = last - before;
  }

  const PromptPlan& plan_;
  const TextTokenizer& tokenizer_;
  const std::string& user_text_;
  std::string text_;
  Range marked_;
  bool first_;
};

bool is_text(const Segment& segment) {
  return segment.kind == Segment::Kind::text || segment.kind == Segment::Kind::user;
}

}  // namespace

PromptPlan parse_prompt_plan(const std::string& bytes) {
  Value v = parse_strict(bytes, kPrompt, limits::PROCESSOR_BYTES);
  apply(*prompt_plan_schema(), v, kPrompt);
  PromptPlan plan;
  plan.segments = read_segments(v.at("segments"), "segments", 1);
  if (!v.at("turn").is_null()) plan.turn = read_segments(v.at("turn"), "turn", 0);
  const Ids forbidden = read_ids(v.at("forbidden_ids"));
  plan.forbidden.insert(forbidden.begin(), forbidden.end());
  return plan;
}

Prompt encode_prompt(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text) {
  require_user_text(user_text);
  Prompt out;
  Ids* side = &out.before;
  Pending pending(plan, tokenizer, user_text, true);
  for (const auto& segment : plan.segments) {
    if (is_text(segment)) {
      pending.add(segment);
      continue;
    }
    pending.flush(*side, out.size(), out);
    side->insert(side->end(), segment.ids.begin(), segment.ids.end());
    if (segment.kind == Segment::Kind::image) {
      side = &out.after;
      pending.not_first();
    }
  }
  pending.flush(*side, out.size(), out);
  return out;
}

Ids encode_turn(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text) {
  if (plan.turn.empty()) {
    throw usage_error(
        "this model's chat template writes earlier turns anew when later ones come, so this bundle has no "
        "conversations; ask single questions");
  }
  require_user_text(user_text);
  Prompt out;
  Pending pending(plan, tokenizer, user_text, false);
  for (const auto& segment : plan.turn) {
    if (is_text(segment)) {
      pending.add(segment);
      continue;
    }
    pending.flush(out.before, out.size(), out);
    out.before.insert(out.before.end(), segment.ids.begin(), segment.ids.end());
  }
  pending.flush(out.before, out.size(), out);
  return out.before;
}

std::string Detokenizer::push(std::int64_t id) {
  window_.push_back(id);
  std::string piece = pending();
  const std::size_t marker = sizeof kReplacement - 1;
  const bool cut = piece.size() >= marker && piece.compare(piece.size() - marker, marker, kReplacement) == 0;
  if (piece.empty() || cut) return {};
  window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(shown_));
  shown_ = window_.size();
  return piece;
}

std::string Detokenizer::flush() {
  std::string piece = pending();
  shown_ = window_.size();
  return piece;
}

// Decoding a little of what came before keeps the space between two words.
std::string Detokenizer::pending() const {
  const auto end = window_.begin() + static_cast<std::ptrdiff_t>(shown_);
  std::size_t characters = count_characters(tokenizer_.decode(Ids(window_.begin(), end)));
  const std::string all = tokenizer_.decode(window_);
  std::size_t at = 0;
  for (; at < all.size() && characters > 0; --characters) {
    do {
      ++at;
    } while (at < all.size() && (static_cast<unsigned char>(all[at]) & 0xC0) == 0x80);
  }
  return all.substr(at);
}

}  // namespace edgetok_impl
