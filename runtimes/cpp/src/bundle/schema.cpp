#include "bundle/schema.hpp"

#include <algorithm>

#include "error.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

const char* name_of(const Value& value) {
  static const char* const names[] = {"null", "bool", "int", "float", "str", "array", "object"};
  return names[value.data.index()];
}

const char* name_of(Schema::Kind kind) {
  switch (kind) {
    case Schema::Kind::integer: return "int";
    case Schema::Kind::real: return "float";
    case Schema::Kind::text: return "str";
    case Schema::Kind::list:
    case Schema::Kind::tuple: return "array";
    case Schema::Kind::map:
    case Schema::Kind::object: break;
  }
  return "object";
}

class Applier {
 public:
  explicit Applier(const std::string& what) : what_(what) {}

  void apply(const Schema& schema, Value& value, const std::string& path) const {
    if (schema.nullable && value.is_null()) return;
    switch (schema.kind) {
      case Schema::Kind::integer: return integer(schema, value, path);
      case Schema::Kind::real: return real(schema, value, path);
      case Schema::Kind::text: return text(schema, value, path);
      case Schema::Kind::list: return list(schema, value, path);
      case Schema::Kind::tuple: return tuple(schema, value, path);
      case Schema::Kind::map: return map(schema, value, path);
      case Schema::Kind::object: return object(schema, value, path);
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& problem, const std::string& path) const {
    throw bundle_error(what_ + ": " + problem + " - at `" + shorten(path, 200) + "`");
  }

  template <class T>
  T& require(const Schema& schema, Value& value, const std::string& path) const {
    if (auto* found = std::get_if<T>(&value.data)) return *found;
    refuse(std::string("Expected `") + name_of(schema.kind) + "`, got `" + name_of(value) + "`", path);
  }

  void integer(const Schema& schema, Value& value, const std::string& path) const {
    const auto found = require<std::int64_t>(schema, value, path);
    if (found < schema.least || found > schema.most) {
      refuse(std::to_string(found) + " is outside " + std::to_string(schema.least) + ".." +
                 std::to_string(schema.most), path);
    }
  }

  void real(const Schema& schema, Value& value, const std::string& path) const {
    if (value.is<std::int64_t>()) value = Value(static_cast<double>(value.integer()));
    const double found = require<double>(schema, value, path);
    const bool below = schema.open || schema.low_open ? !(found > schema.low) : !(found >= schema.low);
    const bool above = schema.open ? !(found < schema.high) : !(found <= schema.high);
    if (below || above) refuse(format_number(found, 6) + " is outside its range", path);
  }

  void text(const Schema& schema, Value& value, const std::string& path) const {
    const auto& found = require<std::string>(schema, value, path);
    const auto& choices = schema.choices;
    const bool chosen = std::find(choices.begin(), choices.end(), found) != choices.end();
    if (!choices.empty() && !chosen) refuse("invalid value `" + shorten(found) + "`", path);
    if (!choices.empty()) return;
    if (count_characters(found) > schema.most_characters || !schema.test(found)) {
      refuse("`" + shorten(found) + "` is too long or not of the form that it must have", path);
    }
  }

  void count(const Schema& schema, std::size_t items, const std::string& path) const {
    if (items < schema.least_items || items > schema.most_items) {
      refuse(std::to_string(items) + " items are fewer or more than allowed", path);
    }
  }

  void list(const Schema& schema, Value& value, const std::string& path) const {
    auto& items = require<List>(schema, value, path);
    count(schema, items.size(), path);
    for (std::size_t i = 0; i < items.size(); ++i) {
      apply(*schema.item, items[i], path + "[" + std::to_string(i) + "]");
    }
  }

  void tuple(const Schema& schema, Value& value, const std::string& path) const {
    auto& items = require<List>(schema, value, path);
    if (items.size() != schema.items.size()) refuse("not of the length that it must have", path);
    for (std::size_t i = 0; i < items.size(); ++i) {
      apply(*schema.items[i], items[i], path + "[" + std::to_string(i) + "]");
    }
  }

  void map(const Schema& schema, Value& value, const std::string& path) const {
    auto& members = require<Object>(schema, value, path);
    count(schema, members.size(), path);
    for (auto& [name, member] : members) {
      Value key{name};
      apply(*schema.key, key, path + ".keys()");
      apply(*schema.item, member, path + "." + name);
    }
  }

  void object(const Schema& schema, Value& value, const std::string& path) const {
    auto& members = require<Object>(schema, value, path);
    for (const auto& [name, member] : members) {
      const auto same = [&known = name](const Field& field) { return field.name == known; };
      if (std::none_of(schema.fields.begin(), schema.fields.end(), same)) {
        refuse("Object contains unknown field `" + shorten(name) + "`", path);
      }
    }
    for (const auto& field : schema.fields) {
      const auto found = members.find(field.name);
      if (found != members.end()) {
        apply(*field.schema, found->second, path + "." + field.name);
      } else if (field.fallback) {
        members.emplace(field.name, *field.fallback);
      } else {
        refuse("Object missing required field `" + field.name + "`", path);
      }
    }
  }

  std::string what_;
};

bool all_of(const std::string& text, std::size_t least, std::size_t most, const char* others,
            bool upper) {
  const std::string extra = others;
  const auto allowed = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (upper && c >= 'A' && c <= 'Z') ||
           extra.find(c) != std::string::npos;
  };
  return text.size() >= least && text.size() <= most &&
         std::all_of(text.begin(), text.end(), allowed);
}

}  // namespace

void apply(const Schema& schema, Value& value, const std::string& what) {
  Applier(what).apply(schema, value, "$");
}

namespace schema {

Schema integer(std::int64_t least, std::int64_t most) {
  Schema out;
  out.kind = Schema::Kind::integer;
  out.least = least;
  out.most = most;
  return out;
}

Schema real(double low, double high) {
  Schema out;
  out.kind = Schema::Kind::real;
  out.low = low;
  out.high = high;
  return out;
}

Schema share() {
  Schema out = real(0, 1);
  out.open = true;
  return out;
}

Schema text(Schema::Test test, std::size_t most_characters) {
  Schema out;
  out.kind = Schema::Kind::text;
  out.test = test;
  out.most_characters = most_characters;
  return out;
}

Schema choice(std::vector<std::string> choices) {
  Schema out;
  out.kind = Schema::Kind::text;
  out.choices = std::move(choices);
  return out;
}

Schema list(const Schema* item, std::size_t least, std::size_t most) {
  Schema out;
  out.kind = Schema::Kind::list;
  out.item = item;
  out.least_items = least;
  out.most_items = most;
  return out;
}

Schema tuple(std::vector<const Schema*> items) {
  Schema out;
  out.kind = Schema::Kind::tuple;
  out.items = std::move(items);
  return out;
}

Schema map(const Schema* key, const Schema* item, std::size_t most) {
  Schema out = list(item, 0, most);
  out.kind = Schema::Kind::map;
  out.key = key;
  return out;
}

Schema object(std::vector<Field> fields) {
  Schema out;
  out.fields = std::move(fields);
  return out;
}

Schema nullable(Schema schema) {
  schema.nullable = true;
  return schema;
}

bool is_name(const std::string& text) { return all_of(text, 1, 120, "_.+-", true); }
bool is_signal(const std::string& text) { return all_of(text, 1, 60, "_", false); }
bool is_anything(const std::string&) { return true; }

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace schema

}  // namespace edgetok_impl
