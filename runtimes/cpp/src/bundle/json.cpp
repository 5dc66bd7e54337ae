#include <locale.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "bundle/value.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

// While this lives, numbers are written with a point in this thread, whatever the program's locale.
class PlainLocale {
 public:
  PlainLocale() : before_(uselocale(plain())) {}
  ~PlainLocale() { uselocale(before_); }
  PlainLocale(const PlainLocale&) = delete;
  PlainLocale& operator=(const PlainLocale&) = delete;

 private:
  static locale_t plain() {
    static locale_t const made = newlocale(LC_ALL_MASK, "C", nullptr);
    return made;
  }

  locale_t before_;
};

// Before parsing: no parser gets to see what is nested deeper.
void require_depth(const std::string& bytes, const std::string& what) {
  std::size_t depth = 0;
  bool in_text = false;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    const char c = bytes[at];
    if (in_text) {
      if (c == '\\') ++at;
      in_text = c != '"';
    } else if (c == '"') {
      in_text = true;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
    if (depth > limits::MANIFEST_DEPTH) {
      throw bundle_error(what + ": nested more than " + std::to_string(limits::MANIFEST_DEPTH) +
                         " levels deep at byte " + std::to_string(at));
    }
  }
}

// Builds the tree, and knows where in it a key occurs twice or a number is too large.
class Builder {
 public:
  using Json = nlohmann::json;

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(Json::number_integer_t value) { return put(std::int64_t{value}); }
  bool number_unsigned(Json::number_unsigned_t value) {
    const bool fits = value <= static_cast<std::uint64_t>(INT64_MAX);
    return fits ? put(static_cast<std::int64_t>(value)) : put(static_cast<double>(value));
  }
  bool number_float(Json::number_float_t value, const std::string&) { return put(double{value}); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }

  bool start_object(std::size_t) { return open(Object{}); }
  bool start_array(std::size_t) { return open(List{}); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    frames_.back().key = name;
    const auto& members = frames_.back().value.as<Object>();
    if (members.find(name) == members.end()) return true;
    problem = "duplicate key at `" + shorten(path(), 200) + "`";
    return false;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& e) {
    const bool too_large = e.id == 406;
    problem = too_large ? "a number is out of range at `" + shorten(path(), 200) + "`"
                        : "not valid JSON at byte " + std::to_string(position);
    return false;
  }

  Value root;
  std::string problem;

 private:
  struct Frame {
    Value value;
    std::string key;
  };

  std::string path() const {
    std::string out = "$";
    for (const auto& frame : frames_) {
      if (frame.value.is<Object>()) {
        out += "." + frame.key;
      } else {
        out += "[" + std::to_string(frame.value.as<List>().size()) + "]";
      }
    }
    return out;
  }

  bool open(Value value) {
    frames_.push_back({std::move(value), {}});
    return true;
  }

  bool close() {
    Value value = std::move(frames_.back().value);
    frames_.pop_back();
    return put(std::move(value));
  }

  bool put(Value value) {
    if (frames_.empty()) {
      root = std::move(value);
    } else if (auto* members = std::get_if<Object>(&frames_.back().value.data)) {
      members->emplace(frames_.back().key, std::move(value));
    } else {
      std::get<List>(frames_.back().value.data).push_back(std::move(value));
    }
    return true;
  }

  std::vector<Frame> frames_;
};

std::string encode_text(const std::string& text) {
  // Its own writer escapes as the exporter does: what JSON asks for and no more.
  return nlohmann::json(text).dump();
}

// The shortest digits that read back as the same double, placed as the exporter places them.
std::string encode_real(double value) {
  char out[40];
  const std::string text(out, std::to_chars(out, out + sizeof out, value, std::chars_format::scientific).ptr);
  const auto e = text.find('e');
  std::string digits = text.substr(0, e);
  const int exponent = std::stoi(text.substr(e + 1));
  const std::string sign = digits[0] == '-' ? "-" : "";
  digits = digits.substr(sign.size());
  if (digits.size() > 1) digits.erase(1, 1);
  const int count = static_cast<int>(digits.size());
  const auto size = [](int n) { return static_cast<std::size_t>(n); };
  if (exponent < -5 || exponent > 15) {
    const std::string rest = count > 1 ? "." + digits.substr(1) : "";
    return sign + digits[0] + rest + "e" + std::to_string(exponent);
  }
  if (exponent < 0) return sign + "0." + std::string(size(-exponent - 1), '0') + digits;
  if (exponent + 1 >= count) return sign + digits + std::string(size(exponent + 1 - count), '0') + ".0";
  return sign + digits.substr(0, size(exponent + 1)) + "." + digits.substr(size(exponent + 1));
}

void encode(const Value& value, std::size_t indent, std::string& out);

template <class Each>
void encode_nested(char open, char close, std::size_t count, std::size_t indent, std::string& out,
                   Each each) {
  out += open;
  if (count > 0) {
    each(std::string("\n") + std::string(indent + 1, ' '));
    out += "\n" + std::string(indent, ' ');
  }
  out += close;
}

void encode(const Value& value, std::size_t indent, std::string& out) {
  if (value.is_null()) out += "null";
  if (value.is<bool>()) out += value.as<bool>() ? "true" : "false";
  if (value.is<std::int64_t>()) out += std::to_string(value.integer());
  if (value.is<double>()) out += encode_real(value.real());
  if (value.is<std::string>()) out += encode_text(value.text());
  if (value.is<List>()) {
    encode_nested('[', ']', value.list().size(), indent, out, [&](const std::string& line) {
      std::string separator = line;
      for (const auto& item : value.list()) {
        out += separator;
        encode(item, indent + 1, out);
        separator = "," + line;
      }
    });
  }
  if (value.is<Object>()) {
    encode_nested('{', '}', value.object().size(), indent, out, [&](const std::string& line) {
      std::string separator = line;
      for (const auto& [name, member] : value.object()) {
        out += separator + encode_text(name) + ": ";
        encode(member, indent + 1, out);
        separator = "," + line;
      }
    });
  }
}

}  // namespace

Value parse_strict(const std::string& bytes, const std::string& what, std::size_t limit_bytes) {
  if (bytes.size() > limit_bytes) {
    throw bundle_error(what + ": " + std::to_string(bytes.size()) +
                       " bytes, more than the limit of " + std::to_string(limit_bytes));
  }
  require_depth(bytes, what);
  if (const auto at = find_invalid_utf8(bytes); at != std::string::npos) {
    throw bundle_error(what + ": not UTF-8 at byte " + std::to_string(at));
  }
  if (bytes.compare(0, 3, "\xef\xbb\xbf") == 0) {  // the parser would skip it
    throw bundle_error(what + ": not valid JSON: begins with a byte order mark");
  }
  Builder builder;
  const PlainLocale plain;  // the parser asks the locale how numbers are written
  if (!nlohmann::json::sax_parse(bytes, &builder)) {
    throw bundle_error(what + ": " + builder.problem);
  }
  return std::move(builder.root);
}

std::string encode_strict(const Value& value) {
  std::string out;
  encode(value, 0, out);
  return out + "\n";
}

}  // namespace edgetok_impl
