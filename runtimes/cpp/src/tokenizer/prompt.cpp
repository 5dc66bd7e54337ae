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
  int set = value.at("strip").is_null() ? 0 : -1;
  for (const auto& [name, member] : value.object()) set += !member.is_null();
  if (set != 1) {
    throw bundle_error(std::string(kPrompt) + ": each of $." + field + " must set exactly one of ids, text and slot");
  }
  Segment out;
  if (!value.at("ids").is_null()) {
    out.ids = read_ids(value.at("ids"));
  } else if (!value.at("text").is_null()) {
    out.kind = Segment::Kind::text;
    out.text = value.at("text").text();
  } else {
    const std::string& slot = value.at("slot").text();
    out.kind = slot == "image" ? Segment::Kind::image : slot == "user" ? Segment::Kind::user : Segment::Kind::system;
  }
  const std::string strip = value.at("strip").is_null() ? "" : value.at("strip").text();
  out.strips_left = strip == "left" || strip == "both";
  out.strips_right = strip == "right" || strip == "both";
  return out;
}

std::vector<Segment> read_segments(const Value& list, const char* field, int images, int systems = 0) {
  std::vector<Segment> out;
  if (list.is_null()) return out;
  for (const auto& item : list.list()) out.push_back(read_segment(item, field));
  const auto count = [&](Segment::Kind kind) {
    return std::count_if(out.begin(), out.end(), [&](const Segment& s) { return s.kind == kind; });
  };
  const auto seen_images = count(Segment::Kind::image), seen_users = count(Segment::Kind::user);
  const auto seen_systems = count(Segment::Kind::system);
  if (seen_images != images || seen_users != 1 || seen_systems != systems) {
    throw bundle_error(std::string(kPrompt) + ": $." + field + " has " + std::to_string(seen_images) +
                       " slots of images, " + std::to_string(seen_users) + " of user texts and " +
                       std::to_string(seen_systems) + " of system messages");
  }
  return out;
}

// Unicode's White_Space, and with `python` what Python's strip takes as well.
bool is_space(std::string_view character, bool python) {
  static const std::set<std::string_view> kWide = {
      "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83",
      "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a",
      "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  if (character.size() > 1) return kWide.count(character) != 0;
  const char c = character[0];
  return c == ' ' || (c >= '\t' && c <= '\r') || (python && c >= '\x1c' && c <= '\x1f');
}

// What is left of valid UTF-8 without the white space of its ends.
Range strip(std::string_view text, bool left, bool right, bool python) {
  std::size_t begin = 0, end = text.size();
  while (left && begin < end && is_space(text.substr(begin, character_bytes(text, begin)), python)) {
    begin += character_bytes(text, begin);
  }
  while (right && begin < end) {
    std::size_t last = end - 1;
    while ((static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (!is_space(text.substr(last, end - last), python)) break;
    end = last;
  }
  return {begin, end};
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

// Writes segments as ids; text that touches is kept until a control token or an image comes.
class Writer {
 public:
  Writer(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user, const std::string* system,
         Before before)
      : plan_(plan), tokenizer_(tokenizer), user_(user), system_(system), before_(before) {
    require_user_text(user);
    if (system != nullptr) require_user_text(*system);
  }

  Prompt write(const std::vector<Segment>& segments) {
    for (const auto& segment : segments) {
      if (segment.kind == Segment::Kind::text) {
        text_ += segment.text;
      } else if (segment.kind == Segment::Kind::user || segment.kind == Segment::Kind::system) {
        give(segment);
      } else {
        flush(segment.strips_left);
        side_->insert(side_->end(), segment.ids.begin(), segment.ids.end());
        const bool image = segment.kind == Segment::Kind::image;
        if (image) side_ = &out_.after;
        if (image || before_ == Before::words) before_ = Before::token;
        takes_space_ = segment.strips_right;
      }
    }
    flush(false);
    return out_;
  }

 private:
  void give(const Segment& segment) {
    const bool user = segment.kind == Segment::Kind::user;
    const std::string& text = user ? user_ : *system_;
    const Range kept = strip(text, segment.strips_left, segment.strips_right, true);
    if (user) marked_ = {text_.size(), text_.size() + kept.end - kept.begin};
    text_.append(text, kept.begin, kept.end - kept.begin);
  }

  // Writes what is pending before a control token, which may take the white space there.
  void flush(bool takes_space) {
    const Range kept = strip(text_, takes_space_, takes_space, false);
    const auto place = [&](std::size_t at) { return std::min(std::max(at, kept.begin), kept.end) - kept.begin; };
    const Range marked = {place(marked_.begin), place(marked_.end)};
    const std::string text = text_.substr(kept.begin, kept.end - kept.begin);
    text_.clear();
    marked_ = {};
    if (text.empty()) return;
    const Tokens found = tokenizer_.encode(text, before_, marked);
    require_allowed(found.ids);
    if (marked.begin < marked.end) find_question(found, out_.size(), out_);
    side_->insert(side_->end(), found.ids.begin(), found.ids.end());
    before_ = Before::token;
  }

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
  const std::string& user_;
  const std::string* system_;
  Before before_;
  Prompt out_;
  Ids* side_ = &out_.before;
  std::string text_;
  Range marked_;
  bool takes_space_ = false;  // whether the last control token does, of what stands behind it
};

}  // namespace

PromptPlan parse_prompt_plan(const std::string& bytes) {
  Value v = parse_strict(bytes, kPrompt, limits::PROCESSOR_BYTES);
  apply(*prompt_plan_schema(), v, kPrompt);
  PromptPlan plan;
  plan.segments = read_segments(v.at("segments"), "segments", 1);
  plan.turn = read_segments(v.at("turn"), "turn", 0);
  plan.system = read_segments(v.at("system"), "system", 1, 1);
  plan.starts_with_text = v.at("starts_with_text").as<bool>();
  const Ids forbidden = read_ids(v.at("forbidden_ids"));
  plan.forbidden.insert(forbidden.begin(), forbidden.end());
  return plan;
}

Prompt encode_prompt(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text,
                     const std::string* system) {
  if (system != nullptr && plan.system.empty()) {
    throw usage_error("this model's chat template takes no system message; put it before the question");
  }
  return Writer(plan, tokenizer, user_text, system, plan.starts_with_text ? Before::nothing : Before::token)
      .write(system == nullptr ? plan.segments : plan.system);
}

Ids encode_turn(const PromptPlan& plan, const TextTokenizer& tokenizer, const std::string& user_text) {
  if (plan.turn.empty()) {
    throw usage_error(
        "this model's chat template writes earlier turns anew when later ones come, so this bundle has no "
        "conversations; ask single questions");
  }
  return Writer(plan, tokenizer, user_text, nullptr, Before::words).write(plan.turn).before;
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
