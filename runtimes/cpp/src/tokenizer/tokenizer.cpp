#include "tokenizer/tokenizer.hpp"

#include <algorithm>

#include "error.hpp"
#include "text.hpp"
#include "tokenizer/normal_form.hpp"

namespace edgetok_impl {

namespace {

const char kSpace[] = "\xe2\x96\x81";  // ▁
const std::size_t kPieceBytes = 16 << 10;  // merging takes time as the square of this

bool starts_with(std::string_view text, std::string_view with, std::size_t at = 0) {
  return text.compare(at, with.size(), with) == 0;
}

// Its bytes as a number: all that is asked of it is which character it is.
std::uint32_t key_of(std::string_view character) {
  std::uint32_t out = 0;
  for (const char c : character) out = out << 8 | static_cast<unsigned char>(c);
  return out;
}

std::uint64_t pair_of(std::string_view left, std::string_view right) {
  return std::uint64_t{key_of(left)} << 32 | key_of(right);
}

std::string_view last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return text.substr(at);
}

std::string_view first_character(std::string_view text) { return text.substr(0, character_bytes(text, 0)); }

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const bool found = starts_with(text, from, at);
    out += found ? to : text.substr(at, 1);
    at += found ? from.size() : 1;
  }
  return out;
}

void require_text(const std::string& text, bool nfc) {
  if (text.find('\0') != std::string::npos) throw input_error("the prompt holds a NUL; remove it");
  auto at = find_disputed(text);
  if (at == std::string::npos && nfc) at = find_disputed_marks(text);
  if (at == std::string::npos) return;
  throw input_error("the prompt holds the character " + shorten(text.substr(at, character_bytes(text, at))) +
                    " (UTF-8), which is not of Unicode 14 or a late mark beside another, so that libraries may take "
                    "it differently; remove it or give token ids");
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// The byte of a name such as <0x0A>, or -1.
int byte_of(std::string_view name) {
  if (name.size() != 6 || !starts_with(name, "<0x") || name[5] != '>') return -1;
  const int high = hex_digit(name[3]), low = hex_digit(name[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace

TextTokenizer::TextTokenizer(const std::string& tokenizer_json, const std::string& library)
    : file_((require_patterns(), parse_tokenizer(tokenizer_json))), merger_(file_, library) {
  for (const auto& expression : file_.splits) patterns_.emplace_back(expression);
  for (const auto& [name, id] : file_.vocabulary) names_[id] = name;
  for (const auto& token : file_.added) {
    added_names_[token.id] = token.content;
    if (token.special) special_.insert(token.content);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string name = file_.words ? byte_name(byte) : byte_characters()[byte];
    bytes_[name] = byte;
    byte_ids_[byte] = file_.vocabulary.at(name);
  }
  if (file_.words) {
    for (const auto& [left, right] : file_.merges) joined_.insert(pair_of(last_character(left), first_character(right)));
  }
  // The longest one that begins at a place is found.
  std::stable_sort(file_.added.begin(), file_.added.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content.size() > b.content.size(); });
}

std::vector<TextTokenizer::Fragment> TextTokenizer::find_added(const std::string& text) const {
  const auto ordinary = std::find_if(file_.added.begin(), file_.added.end(), [](const auto& t) { return !t.special; });
  if (ordinary == file_.added.end()) return {{text, 0, -1}};
  std::vector<Fragment> out;
  std::size_t done = 0;
  const auto add_text = [&](std::size_t end) {
    if (done < end) out.push_back({text.substr(done, end - done), done, -1});
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto found = std::find_if(file_.added.begin(), file_.added.end(), [&](const AddedToken& token) {
      return token.normalized == ordinary->normalized && starts_with(text, token.content, at);
    });
    if (found == file_.added.end()) {
      ++at;
      continue;
    }
    const std::size_t end = at + found->content.size();
    if (!found->special) {  // else it is text, and hides what begins within it
      add_text(at);
      out.push_back({found->content, at, found->id});
      done = end;
    }
    at = end;
  }
  add_text(text.size());
  return out;
}

std::string TextTokenizer::normalise(const std::string& text, bool prefix) const {
  if (file_.nfc) return to_nfc(text);
  if (!file_.words) return text;
  return (prefix ? kSpace : "") + replace_all(text, " ", kSpace);
}

Range TextTokenizer::place(const Fragment& fragment, const std::string& normalised, bool prefix, Range marked) const {
  const auto move = [&](std::size_t at) {
    const std::size_t within = at <= fragment.begin ? 0 : std::min(at - fragment.begin, fragment.text.size());
    if (fragment.id >= 0 || within == 0) return within;
    const std::string before = normalise(fragment.text.substr(0, within), prefix);
    if (file_.nfc && before + to_nfc(fragment.text.substr(within)) != normalised) {
      throw input_error("the prompt begins or ends with a mark that joins a character of the template; remove it");
    }
    return before.size();
  };
  return {move(marked.begin), move(marked.end)};
}

Tokens TextTokenizer::encode(const std::string& text, Before before, Range marked) const {
  require_text(text, file_.nfc);
  Tokens out;
  std::size_t base = 0;
  for (const auto& fragment : find_added(text)) {
    bool prefix = false;
    if (file_.words && fragment.id < 0) {
      using Prefix = Words::Prefix;
      const bool begins = before == Before::nothing && fragment.begin == 0;
      const bool spaced = starts_with(fragment.text, " ") || starts_with(fragment.text, kSpace);
      const auto wanted = file_.words->prefix;
      const bool every = wanted == Prefix::every && before != Before::words;
      prefix = (every || (wanted == Prefix::first && begins)) &&
               (file_.words->before_spaces || !spaced);
    }
    const std::string normalised = fragment.id < 0 ? normalise(fragment.text, prefix) : fragment.text;
    const Range here = place(fragment, normalised, prefix, marked);
    if (marked.begin >= fragment.begin) out.marked.begin = base + here.begin;
    if (marked.end >= fragment.begin) out.marked.end = base + here.end;
    if (fragment.id < 0) {
      add_pieces(normalised, base, out);
    } else {
      out.ids.push_back(fragment.id);
      out.spans.push_back({base, base + normalised.size()});
    }
    base += normalised.size();
  }
  for (std::size_t i = 0; file_.trim && i < out.ids.size(); ++i) out.spans[i] = trim(out.ids[i], out.spans[i], i == 0);
  return out;
}

std::vector<Range> TextTokenizer::split(const std::string& text) const {
  if (file_.words) return split_words(text);
  std::vector<Range> out{{0, text.size()}};
  for (const auto& pattern : patterns_) {
    std::vector<Range> finer;
    for (const Range whole : out) {
      for (const Range part : pattern.isolate(std::string_view(text).substr(whole.begin, whole.end - whole.begin))) {
        finer.push_back({whole.begin + part.begin, whole.begin + part.end});
      }
    }
    out = std::move(finer);
  }
  return out;
}

// Between two characters that no merge brings together, a text can be cut without changing its tokens.
std::vector<Range> TextTokenizer::split_words(const std::string& text) const {
  std::vector<Range> out;
  std::size_t begin = 0;
  std::string_view last;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = std::string_view(text).substr(at, character_bytes(text, at));
    const bool word = file_.words->split && character == kSpace;
    if (at != 0 && (word || joined_.count(pair_of(last, character)) == 0)) {
      out.push_back({begin, at});
      begin = at;
    }
    last = character;
    at += character.size();
  }
  if (begin < text.size()) out.push_back({begin, text.size()});
  return out;
}

// What merging begins with: characters, or bytes where these are no token.
Ids TextTokenizer::begin_with(std::string_view piece) const {
  if (piece.size() > kPieceBytes) {
    throw input_error("the prompt has " + std::to_string(piece.size()) + " bytes in a row that the tokenizer does " +
                      "not split, `" + shorten(piece, 30) + "`; at most " + std::to_string(kPieceBytes) +
                      " are merged; shorten them");
  }
  Ids out;
  const auto add_byte = [&](char c) { out.push_back(byte_ids_[static_cast<unsigned char>(c)]); };
  for (std::size_t at = 0; at < piece.size();) {
    const std::string_view character = piece.substr(at, file_.words ? character_bytes(piece, at) : 1);
    const auto found = file_.words ? file_.vocabulary.find(std::string(character)) : file_.vocabulary.end();
    if (found != file_.vocabulary.end()) {
      out.push_back(found->second);
    } else {
      std::for_each(character.begin(), character.end(), add_byte);
    }
    at += character.size();
  }
  return out;
}

std::size_t TextTokenizer::count_bytes(std::int64_t id) const {
  const auto name = names_.find(id);
  if (name == names_.end()) return 0;
  if (!file_.words) return count_characters(name->second);
  return bytes_.count(name->second) != 0 ? 1 : name->second.size();
}

void TextTokenizer::add_pieces(const std::string& text, std::size_t base, Tokens& out) const {
  const auto ranges = split(text);
  std::vector<Ids> pieces;
  pieces.reserve(ranges.size());
  for (const Range range : ranges) {
    pieces.push_back(begin_with(std::string_view(text).substr(range.begin, range.end - range.begin)));
  }
  const auto merged = merger_.merge(pieces);
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    std::size_t at = ranges[i].begin;
    for (const auto id : merged[i]) {
      const std::size_t end = at + count_bytes(id);
      out.ids.push_back(id);
      out.spans.push_back({base + at, base + end});
      at = end;
    }
    if (at != ranges[i].end) {
      throw incompatible("the tokenizer library lost a part of the prompt; give token ids, or another version of "
                         "onnxruntime-extensions");
    }
  }
}

Range TextTokenizer::trim(std::int64_t id, Range span, bool begins) const {
  const auto added = added_names_.find(id);
  const std::string& name = added == added_names_.end() ? names_.at(id) : added->second;
  const std::string& space = byte_characters()[' '];
  std::vector<bool> blank;
  for (std::size_t at = 0; at < name.size(); at += character_bytes(name, at)) {
    const std::string character = name.substr(at, character_bytes(name, at));
    const char c = character[0];
    blank.push_back(character == space || c == ' ' || (c >= '\t' && c <= '\r'));
  }
  const auto visible = [](bool b) { return !b; };
  auto leading = static_cast<std::size_t>(std::find_if(blank.begin(), blank.end(), visible) - blank.begin());
  const auto trailing = static_cast<std::size_t>(std::find_if(blank.rbegin(), blank.rend(), visible) - blank.rbegin());
  if ((begins || span.begin == 0) && file_.trim->keep_first && leading == 1) leading = 0;
  span.begin = std::min(span.begin + leading, span.end);
  if (span.end >= trailing) span.end = std::max(span.end - trailing, span.begin);
  return span;
}

std::string TextTokenizer::decode(const Ids& ids) const {
  std::vector<const std::string*> names;
  for (const auto id : ids) {
    const auto added = added_names_.find(id);
    const auto plain = names_.find(id);
    const std::string* name = added != added_names_.end() ? &added->second : plain != names_.end() ? &plain->second : nullptr;
    if (name != nullptr && special_.count(*name) == 0) names.push_back(name);
  }
  if (file_.words) return decode_words(names);
  std::string out;
  for (const std::string* name : names) {
    std::string bytes;
    bool all = true;
    for (std::size_t at = 0; all && at < name->size(); at += character_bytes(*name, at)) {
      const auto byte = bytes_.find(name->substr(at, character_bytes(*name, at)));
      all = byte != bytes_.end();
      if (all) bytes += static_cast<char>(byte->second);
    }
    out += all ? bytes : *name;
  }
  return replace_invalid_utf8(out);
}

std::string TextTokenizer::decode_words(const std::vector<const std::string*>& names) const {
  std::string out, bytes;
  const auto flush = [&] {
    const bool valid = find_invalid_utf8(bytes) == std::string::npos;
    for (std::size_t i = 0; !valid && i < bytes.size(); ++i) out += "\xef\xbf\xbd";
    if (valid) out += bytes;
    bytes.clear();
  };
  for (const std::string* name : names) {
    const std::string piece = replace_all(*name, kSpace, " ");
    const int byte = byte_of(piece);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
    } else {
      flush();
      out += piece;
    }
  }
  flush();
  return file_.words->strip && starts_with(out, " ") ? out.substr(1) : out;
}

}  // namespace edgetok_impl
