#include "tokenizer/tokenizer_file.hpp"

#include <algorithm>
#include <set>
#include <unordered_set>

#include "bundle/value.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

const char kFile[] = "processor/tokenizer.json";
const char kSpace[] = "\xe2\x96\x81";  // ▁
// What `tokenizers` splits by before byte-level BPE, unless it is told otherwise.
const char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Error refusal(const std::string& what) {
  return incompatible(std::string(kFile) + ": " + what + ", which this library does not repeat; give token ids");
}

Error malformed(const std::string& what) { return bundle_error(std::string(kFile) + ": " + what + "; export again"); }

// An object of the file, which may have no members but those that its reader asks about: another one
// could mean that it does something else.
class Part {
 public:
  Part(const Value& value, std::string name) : name_(std::move(name)) {
    if (!value.is<Object>()) throw malformed("`" + name_ + "` is no object");
    members_ = &value.object();
  }

  const Value* find(const std::string& key) {
    known_.insert(key);
    const auto at = members_->find(key);
    return at == members_->end() || at->second.is_null() ? nullptr : &at->second;
  }

  template <class T>
  T get(const std::string& key, T missing) {
    const Value* value = find(key);
    if (value == nullptr) return missing;
    if (!value->is<T>()) throw malformed("`" + name_ + "." + key + "` has the wrong type");
    return value->as<T>();
  }

  template <class T>
  const T& require(const std::string& key) {
    const Value* value = find(key);
    if (value == nullptr || !value->is<T>()) throw malformed("`" + name_ + "." + key + "` is missing or has the wrong type");
    return value->as<T>();
  }

  void require_no_more() const {
    for (const auto& [key, value] : *members_) {
      if (known_.count(key) == 0) throw refusal("`" + name_ + "` has the member `" + shorten(key) + "`");
    }
  }

  const std::string& name() const { return name_; }

 private:
  std::string name_;
  const Object* members_;
  std::set<std::string> known_;
};

using Handler = void (*)(Part& part, TokenizerFile& out);

// The members of a Sequence, or the only one.
std::vector<const Value*> unfold(const Value* value, const std::string& name, const char* members) {
  if (value == nullptr) return {};
  Part part(*value, name);
  if (part.require<std::string>("type") != "Sequence") return {value};
  std::vector<const Value*> out;
  for (const auto& item : part.require<List>(members)) {
    for (const Value* inner : unfold(&item, name, members)) out.push_back(inner);
  }
  part.require_no_more();
  return out;
}

Words& words(TokenizerFile& out) {
  if (!out.words) out.words.emplace();
  return *out.words;
}

// A pattern that is a text, or with `regex` a regular expression.
std::string pattern(Part& part, const char* kind) {
  const Value* given = part.find("pattern");
  if (given == nullptr) throw malformed("`" + part.name() + "` has no pattern");
  Part inner(*given, part.name() + ".pattern");
  std::string out = inner.require<std::string>(kind);
  inner.require_no_more();
  return out;
}

bool has(const Value* pattern, const char* kind) {
  return pattern != nullptr && pattern->is<Object>() && pattern->object().count(kind) != 0;
}

void read_nfc(Part&, TokenizerFile& out) { out.nfc = true; }

void read_prepend(Part& part, TokenizerFile& out) {
  if (part.require<std::string>("prepend") != kSpace) throw refusal("it prepends another text than ▁");
  words(out).prefix = Words::Prefix::every;
  words(out).before_spaces = true;
}

void read_replace(Part& part, TokenizerFile& out) {
  if (pattern(part, "String") != " " || part.require<std::string>("content") != kSpace) {
    throw refusal("it replaces other texts than spaces by ▁");
  }
  words(out).replaced = true;
}

void read_byte_level(Part& part, TokenizerFile& out) {
  if (part.get("add_prefix_space", true)) throw refusal("it puts a space in front of a text");
  part.get("trim_offsets", true);
  if (part.get("use_regex", true)) out.splits.push_back(kGpt2);
}

void read_digits(Part& part, TokenizerFile& out) {
  out.splits.push_back(part.get("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
}

void read_metaspace(Part& part, TokenizerFile& out) {
  const auto scheme = part.get<std::string>("prepend_scheme", "always");
  if (part.require<std::string>("replacement") != kSpace) throw refusal("its space is another character than ▁");
  if (out.words) throw refusal("it makes ▁ of spaces twice");
  words(out).replaced = true;
  using Prefix = Words::Prefix;
  if (scheme != "always" && scheme != "first" && scheme != "never") throw malformed("prepend_scheme is unknown");
  words(out).prefix = scheme == "always" ? Prefix::every : scheme == "first" ? Prefix::first : Prefix::never;
  words(out).split = part.get("split", true);
}

void read_split(Part& part, TokenizerFile& out) {
  const auto behavior = part.require<std::string>("behavior");
  if (part.get("invert", false)) throw refusal("it splits at what does not match");
  if (has(part.find("pattern"), "String")) {  // Gemma's: there is no space left to split at
    const bool idle = out.words && pattern(part, "String") == " ";
    if (!idle) throw refusal("it splits at a text");
    return;
  }
  if (behavior != "Isolated") throw refusal("it splits with the behavior " + shorten(behavior));
  out.splits.push_back(pattern(part, "Regex"));
}

void read_template(Part& part, TokenizerFile&) {  // for special tokens, which the template of the bundle has
  for (const char* key : {"single", "pair", "special_tokens"}) part.find(key);
}

void read_trimming(Part& part, TokenizerFile& out) {
  const bool keep_first = part.get("add_prefix_space", true);
  if (part.get("trim_offsets", true)) out.trim = Trim{keep_first};
  part.get("use_regex", true);
}

// Calls what reads each member of a chain, as the table tells; others are refused.
void read_chain(const Value* value, const std::string& name, const char* members,
                const std::vector<std::pair<std::string, Handler>>& table, TokenizerFile& out) {
  for (const Value* item : unfold(value, name, members)) {
    Part part(*item, name);
    const std::string type = part.require<std::string>("type");
    const auto at = std::find_if(table.begin(), table.end(), [&](const auto& row) { return row.first == type; });
    if (at == table.end()) throw refusal("its " + name + " is " + shorten(type));
    at->second(part, out);
    part.require_no_more();
  }
}

std::pair<std::string, std::string> read_merge(const Value& value) {
  if (value.is<List>() && value.list().size() == 2 && value.list()[0].is<std::string>() &&
      value.list()[1].is<std::string>()) {
    return {value.list()[0].text(), value.list()[1].text()};
  }
  if (value.is<std::string>()) {  // before version 0.20
    const auto& text = value.text();
    const auto at = text.find(' ');
    if (at != std::string::npos && text.find(' ', at + 1) == std::string::npos) {
      return {text.substr(0, at), text.substr(at + 1)};
    }
  }
  throw malformed("a merge is no pair of tokens");
}

void read_vocabulary(const Object& vocabulary, TokenizerFile& out) {
  std::unordered_set<std::int64_t> ids;
  for (const auto& [name, id] : vocabulary) {
    if (!id.is<std::int64_t>() || id.integer() < 0 || id.integer() > INT32_MAX || !ids.insert(id.integer()).second) {
      throw malformed("the id of token `" + shorten(name) + "` is none, too large or taken");
    }
    out.vocabulary.emplace(name, id.integer());
  }
}

void read_model(const Value* value, TokenizerFile& out) {
  if (value == nullptr) throw malformed("there is no model");
  Part part(*value, "model");
  const auto type = part.get<std::string>("type", "BPE");
  if (type != "BPE") throw refusal("its model is " + shorten(type));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!part.get<std::string>(key, "").empty()) throw refusal("it has a " + std::string(key));
  }
  if (part.find("dropout") != nullptr) throw refusal("it drops merges by chance");
  out.ignore_merges = part.get("ignore_merges", false);
  const bool falls_back = part.get("byte_fallback", false);
  if (falls_back != out.words.has_value()) {
    throw refusal(falls_back ? "it falls back to bytes without ▁ for spaces" : "it has ▁ for spaces and no byte_fallback");
  }
  if (falls_back && out.ignore_merges) throw refusal("it ignores merges and falls back to bytes");
  part.get("fuse_unk", false);  // nothing is unknown where every byte is a token
  part.get<std::string>("unk_token", "");
  read_vocabulary(part.require<Object>("vocab"), out);
  for (const auto& merge : part.require<List>("merges")) out.merges.push_back(read_merge(merge));
  part.require_no_more();
}

void require_bytes(const TokenizerFile& file) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto name = file.words ? byte_name(byte) : byte_characters()[byte];
    if (file.vocabulary.count(name) == 0) throw refusal("its vocabulary has no token for byte " + std::to_string(byte));
  }
}

// Where a merge could come before the one that makes what it merges, the order within a piece of text
// would matter, and the two libraries go different ways about it.
void require_order(const TokenizerFile& file) {
  std::unordered_map<std::string, std::size_t> made;
  for (std::size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    for (const auto& name : {left, right, left + right}) {
      if (file.vocabulary.count(name) == 0) throw malformed("a merge has `" + shorten(name) + "`, which is no token");
    }
    made[left + right] = rank;
  }
  std::unordered_map<std::string, std::size_t> bytes;
  if (file.words) {
    for (unsigned byte = 0; byte < 256; ++byte) bytes[byte_name(byte)] = 0;
  }
  for (std::size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    for (const auto& name : {left, right}) {
      const auto at = made.find(name);
      if (at != made.end() && at->second >= rank) throw refusal("a merge comes before the one that it needs");
      if (bytes.count(name) != 0) throw refusal("it merges bytes that are no characters");
    }
    if (bytes.count(left + right) != 0) throw refusal("it merges characters to the name of a byte");
  }
}

void read_added(const Value* value, TokenizerFile& out) {
  if (value == nullptr) return;
  if (!value->is<List>()) throw malformed("added_tokens is no list");
  for (const auto& item : value->list()) {
    Part part(item, "added_tokens[]");
    AddedToken token;
    token.content = part.require<std::string>("content");
    token.id = part.require<std::int64_t>("id");
    token.special = part.get("special", false);
    token.normalized = part.get("normalized", true);
    bool plain = true;
    for (const char* key : {"single_word", "lstrip", "rstrip"}) plain = !part.get(key, false) && plain;
    part.require_no_more();
    if (token.content.empty()) continue;  // as `tokenizers` does
    if (token.id < 0 || token.id > INT32_MAX) throw malformed("an added token has no id");
    const auto known = out.vocabulary.find(token.content);
    if (known != out.vocabulary.end() && known->second != token.id) throw malformed("an added token has two ids");
    if (!token.special && !plain) throw refusal("an added token takes spaces with it or stands alone");
    out.added.push_back(std::move(token));
  }
}

// What normalising and trimming would make of added tokens is left to `tokenizers`.
void require_plain_added(const TokenizerFile& file) {
  bool early = false, late = false;
  for (const auto& token : file.added) {
    if (token.special) continue;
    (token.normalized ? late : early) = true;
    const auto high = [](char c) { return static_cast<unsigned char>(c) >= 0x80; };
    const bool ends_high = high(token.content.front()) || high(token.content.back());
    if (file.trim && ends_high) throw refusal("places are trimmed and an added token begins or ends outside ASCII");
  }
  if (early && late) throw refusal("some added tokens are found before the text is normalised and some after");
  if (late && (file.nfc || file.words)) throw refusal("added tokens are found after the text was normalised");
}

bool is_type(const Value* value, const char* type) {
  return value != nullptr && value->is<Object>() && Part(*value, "decoder").require<std::string>("type") == type;
}

// Replace, ByteFallback, Fuse and perhaps Strip, in this order.
void read_word_decoder(const Value* value, TokenizerFile& out) {
  const auto chain = unfold(value, "decoder", "decoders");
  const char* const wanted[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
  bool right = chain.size() == 3 || chain.size() == 4;
  for (std::size_t i = 0; right && i < chain.size(); ++i) right = is_type(chain[i], wanted[i]);
  if (!right) throw refusal("its decoder is none of Replace, ByteFallback, Fuse and Strip in turn");
  Part replace(*chain[0], "decoder");
  if (pattern(replace, "String") != kSpace || replace.require<std::string>("content") != " ") {
    throw refusal("its decoder replaces another text than ▁");
  }
  if (chain.size() == 3) return;
  Part strip(*chain[3], "decoder");
  const bool one = strip.require<std::string>("content") == " " && strip.require<std::int64_t>("start") == 1 &&
                   strip.require<std::int64_t>("stop") == 0;
  if (!one) throw refusal("its decoder strips something else than one space");
  out.words->strip = true;
}

void read_decoder(const Value* value, TokenizerFile& out) {
  if (out.words) return read_word_decoder(value, out);
  const auto chain = unfold(value, "decoder", "decoders");
  if (chain.size() != 1 || !is_type(chain[0], "ByteLevel")) throw refusal("its decoder is not ByteLevel");
}

}  // namespace

const std::vector<std::string>& byte_characters() {
  static const std::vector<std::string> made = [] {
    std::vector<std::string> out(256);
    unsigned next = 256;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
      const unsigned point = printable ? byte : next++;
      if (point < 0x80) {
        out[byte] = static_cast<char>(point);
      } else {
        out[byte] = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
      }
    }
    return out;
  }();
  return made;
}

std::string byte_name(unsigned byte) {
  const char hex[] = "0123456789ABCDEF";
  return {'<', '0', 'x', hex[byte >> 4 & 15], hex[byte & 15], '>'};
}

TokenizerFile parse_tokenizer(const std::string& bytes) {
  const Value root = parse_strict(bytes, kFile, limits::TOKENIZER_BYTES);
  Part part(root, "$");
  TokenizerFile out;
  for (const char* key : {"version", "truncation", "padding"}) part.find(key);  // a prompt is refused, never cut
  read_chain(part.find("normalizer"), "normalizer", "normalizers",
             {{"NFC", read_nfc}, {"Prepend", read_prepend}, {"Replace", read_replace}}, out);
  if (out.words && (out.nfc || !out.words->replaced)) throw refusal("it normalises in another way than by ▁ for spaces");
  bool byte_level = false;
  for (const Value* item : unfold(part.find("pre_tokenizer"), "pre_tokenizer", "pretokenizers")) {
    if (byte_level) throw refusal("it splits bytes");
    byte_level = is_type(item, "ByteLevel");
  }
  read_chain(part.find("pre_tokenizer"), "pre_tokenizer", "pretokenizers",
             {{"ByteLevel", read_byte_level}, {"Digits", read_digits}, {"Metaspace", read_metaspace}, {"Split", read_split}}, out);
  if (byte_level == out.words.has_value() || (out.words && !out.splits.empty())) {
    throw refusal("its pre_tokenizer is neither for bytes nor for words with ▁");
  }
  read_chain(part.find("post_processor"), "post_processor", "processors",
             {{"TemplateProcessing", read_template}, {"ByteLevel", read_trimming}}, out);
  if (out.words && out.trim) throw refusal("it trims places of words");
  read_decoder(part.find("decoder"), out);
  read_model(part.find("model"), out);
  read_added(part.find("added_tokens"), out);
  part.require_no_more();
  require_bytes(out);
  require_order(out);
  require_plain_added(out);
  return out;
}

}  // namespace edgetok_impl
