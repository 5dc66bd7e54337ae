#include "tokenizer/merger.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "error.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

// The part of onnxruntime-extensions' C interface that is used here, after its include/ortx_utils.h
// and include/ortx_tokenizer.h (version 1 of that interface).
struct OrtxBlob {
  const char* config;
  const char* vocabulary;
  const char* module;
  const char* raw;
  const char* reserved;
  std::size_t config_bytes, vocabulary_bytes, module_bytes, raw_bytes, reserved_bytes;
};
const int kVersion = 1;

struct Functions {
  int (*get_version)();
  const char* (*get_message)();
  int (*create)(void** tokenizer, const OrtxBlob* blob);
  int (*tokenize)(const void* tokenizer, const char* input[], std::size_t count, void** ids);
  int (*get_item)(const void* ids, std::size_t index, const std::uint32_t** item, std::size_t* length);
  int (*dispose)(void** object);
};

Error unusable(const std::string& library, const std::string& why) {
  return incompatible("the tokenizer library `" + library + "` cannot be used: " + why +
                      "; give the path of libortextensions.so of onnxruntime-extensions, or token ids");
}

template <class T>
void find(void* handle, const std::string& library, const char* name, T& function) {
  void* found = dlsym(handle, name);
  if (found == nullptr) throw unusable(library, std::string("it has no ") + name);
  function = reinterpret_cast<T>(found);
}

Functions load(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();  // NOLINT(concurrency-mt-unsafe): of this thread, in glibc and musl
    throw unusable(library, why == nullptr ? "it cannot be loaded" : why);
  }
  Functions out{};
  find(handle, library, "OrtxGetAPIVersion", out.get_version);
  if (const int version = out.get_version(); version != kVersion) {
    throw unusable(library, "its interface has version " + std::to_string(version) + ", not " + std::to_string(kVersion));
  }
  find(handle, library, "OrtxGetLastErrorMessage", out.get_message);
  find(handle, library, "OrtxCreateTokenizerFromBlob", out.create);
  find(handle, library, "OrtxTokenize", out.tokenize);
  find(handle, library, "OrtxTokenId2DArrayGetItem", out.get_item);
  find(handle, library, "OrtxDispose", out.dispose);
  return out;
}

// It splits texts before it merges, in ways that differ from those of `tokenizers` and between its
// versions. Pieces come to it split, and shall be merged whole: so they are spelt with letters, a run of
// which it never splits. Each letter stands for a character or byte that merging begins with. To it,
// they are the bytes of UTF-8, which are merged to letters first of all.
std::string letter(std::size_t index, bool few) {
  const auto cut = [](std::uint32_t bits, std::uint32_t mark) { return static_cast<char>(mark | (bits & 0x3F)); };
  if (few) {  // U+0100 to U+01FF
    const auto point = static_cast<std::uint32_t>(0x100 + index);
    return {static_cast<char>(0xC0 | point >> 6), cut(point, 0x80)};
  }
  const std::size_t ideographs = 0x9FA6 - 0x4E00, syllables = 0xD7A4 - 0xAC00;
  if (index < ideographs + syllables) {
    const auto point = static_cast<std::uint32_t>(index < ideographs ? 0x4E00 + index : 0xAC00 + index - ideographs);
    return {static_cast<char>(0xE0 | point >> 12), cut(point >> 6, 0x80), cut(point, 0x80)};
  }
  throw incompatible("processor/tokenizer.json: its vocabulary has more than " +
                     std::to_string(ideographs + syllables) + " single characters; give token ids");
}

// The name of a token: its letters, byte by byte. Where a piece that is a token need not stay whole,
// bytes are written in ASCII, so that no piece is found by its name: the library would keep it.
std::string spell(const std::string& letters, bool hidden) {
  std::string out;
  for (const char c : letters) {
    const auto byte = static_cast<unsigned char>(c);
    if (!hidden) {
      out += byte_characters()[byte];
    } else if (byte < 0xC0) {
      out += static_cast<char>('0' + (byte & 0x3F));
    } else {  // C4 to C7, E4 to ED
      out += static_cast<char>('p' + (byte < 0xE0 ? byte - 0xC4 : byte - 0xE0));
    }
  }
  return out;
}

// Of what `spell` writes.
std::string quote(const std::string& name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out + "\"";
}

class Speller {
 public:
  explicit Speller(const TokenizerFile& file) : hidden_(!file.ignore_merges) {
    std::map<std::string, std::int64_t> single;
    for (const auto& [name, id] : file.vocabulary) {
      if (count_characters(name) == 1) single[name] = id;
    }
    const bool few = !file.words;
    if (few) single.clear();
    for (unsigned byte = 0; byte < 256; ++byte) {
      const auto name = few ? byte_characters()[byte] : byte_name(byte);
      single[name] = file.vocabulary.at(name);
    }
    for (const auto& [name, id] : single) {
      const std::string made = letter(letters_.size(), few);
      letters_[id] = made;
      if (count_characters(name) == 1) characters_[name] = made;
    }
  }

  // What to make a tokenizer of that merges as the file says, with ids of its own: it needs them dense.
  std::string describe(const TokenizerFile& file) {
    for (const auto& character : byte_characters()) add_token(character, -1);
    for (const auto& [id, letters] : letters_) add_letter(id, letters);
    for (const auto& [name, id] : file.vocabulary) {
      const std::string letters = spell_token(name);
      if (!letters.empty()) add_token(spell(letters, hidden_), id);
    }
    for (const auto& [left, right] : file.merges) {
      const std::string first = spell_token(left), second = spell_token(right);
      if (!first.empty() && !second.empty()) add_merge(first, second);
    }
    std::string out = R"({"added_tokens": [], "model": {"type": "BPE", "vocab": {)";
    std::string separator;
    for (const auto& [name, id] : vocabulary_) {
      out += separator + quote(name) + ":" + std::to_string(id);
      separator = ",";
    }
    return out + R"(}, "merges": [)" + merges_ + "]}}";
  }

  std::unordered_map<std::int64_t, std::string>& letters() { return letters_; }
  Ids& ids() { return ids_; }  // of the file, by those of its own; -1 for a part of a letter

 private:
  void add_token(const std::string& name, std::int64_t id) {
    if (vocabulary_.emplace(name, ids_.size()).second) ids_.push_back(id);
  }

  void add_merge(const std::string& left, const std::string& right) {
    if (!merges_.empty()) merges_ += ",";
    merges_ += "[" + quote(spell(left, hidden_)) + "," + quote(spell(right, hidden_)) + "]";
  }

  // The bytes of a letter, one after the other, become the token that it stands for.
  void add_letter(std::int64_t id, const std::string& letters) {
    for (const char c : letters) {
      const std::string byte(1, c);
      // No letter has a byte of ASCII, so its names are free.
      const std::size_t own = vocabulary_.at(spell(byte, false));
      vocabulary_[spell(byte, hidden_)] = own;
    }
    for (std::size_t end = 2; end <= letters.size(); ++end) {
      const std::string name = spell(letters.substr(0, end), hidden_);
      if (vocabulary_.count(name) != 0) continue;
      add_token(name, end == letters.size() ? id : -1);
      add_merge(letters.substr(0, end - 1), letters.substr(end - 1, 1));
    }
  }

  // Empty for a token that holds a character which is none: no merges lead to it.
  std::string spell_token(const std::string& name) const {
    std::string out;
    for (std::size_t at = 0; at < name.size();) {
      const std::size_t bytes = character_bytes(name, at);
      const auto found = characters_.find(name.substr(at, bytes));
      if (found == characters_.end()) return {};
      out += found->second;
      at += bytes;
    }
    return out;
  }

  bool hidden_;
  std::unordered_map<std::int64_t, std::string> letters_;       // by id
  std::unordered_map<std::string, std::string> characters_;  // letters by the character they stand for
  Ids ids_;
  std::unordered_map<std::string, std::size_t> vocabulary_;
  std::string merges_;  // JSON, but for the brackets
};

const char kConfig[] = R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": false, "add_eos_token": false})";

}  // namespace

struct Merger::Loaded {
  Functions functions{};
  std::string library;
  void* tokenizer = nullptr;
  std::unordered_map<std::int64_t, std::string> letters;  // by id of the file
  Ids ids;                                                // of the file, by its own
  std::mutex mutex;  // it notes where it is in a text

  ~Loaded() {
    if (tokenizer != nullptr) functions.dispose(&tokenizer);
  }

  void require(int code) const {
    if (code != 0) throw unusable(library, shorten(functions.get_message(), 300));
  }

  // It may let exceptions out.
  template <class Call>
  void run(Call call) const {
    try {
      call();
    } catch (const Error&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      throw unusable(library, shorten(error.what(), 300));
    }
  }
};

Merger::Merger(const TokenizerFile& file, const std::string& library) : loaded_(std::make_shared<Loaded>()) {
  loaded_->functions = load(library);
  loaded_->library = library;
  Speller speller(file);
  const std::string vocabulary = speller.describe(file);
  loaded_->letters = std::move(speller.letters());
  loaded_->ids = std::move(speller.ids());
  const OrtxBlob blob{kConfig, vocabulary.data(), nullptr, nullptr, nullptr, sizeof kConfig - 1, vocabulary.size(), 0, 0, 0};
  loaded_->run([&] { loaded_->require(loaded_->functions.create(&loaded_->tokenizer, &blob)); });
}

std::vector<Ids> Merger::merge(const std::vector<Ids>& pieces) const {
  std::vector<std::string> spelt(pieces.size());
  std::vector<const char*> texts;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    for (const auto id : pieces[i]) spelt[i] += loaded_->letters.at(id);
    texts.push_back(spelt[i].c_str());
  }
  std::vector<Ids> out(pieces.size());
  if (pieces.empty()) return out;
  const std::lock_guard<std::mutex> lock(loaded_->mutex);
  const auto& functions = loaded_->functions;
  loaded_->run([&] {
    void* made = nullptr;
    loaded_->require(functions.tokenize(loaded_->tokenizer, texts.data(), texts.size(), &made));
    const auto dispose = [&](void* object) { functions.dispose(&object); };
    const std::unique_ptr<void, decltype(dispose)> owned(made, dispose);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const std::uint32_t* ids = nullptr;
      std::size_t length = 0;
      loaded_->require(functions.get_item(made, i, &ids, &length));
      for (std::size_t j = 0; j < length; ++j) out[i].push_back(ids[j] < loaded_->ids.size() ? loaded_->ids[ids[j]] : -1);
    }
  });
  return out;
}

}  // namespace edgetok_impl
