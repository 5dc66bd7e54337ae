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
    case Schema::Kind::boolean: return "bool";
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

// The characters are those of a pattern's brackets: a-z is a range, and a last - is itself.
bool are_all_of(const std::string& text, const std::string& characters) {
  const auto allowed = [&](char c) {
    for (std::size_t i = 0; i < characters.size(); ++i) {
      const bool is_range = i + 2 < characters.size() && characters[i + 1] == '-';
      if (is_range ? characters[i] <= c && c <= characters[i + 2] : characters[i] == c) return true;
      if (is_range) i += 2;
    }
    return characters.empty();
  };
  return std::all_of(text.begin(), text.end(), allowed);
}

class Applier {
 public:
  explicit Applier(const std::string& what) : what_(what) {}

  void apply(const Schema& schema, Value& value, const std::string& path) const {
    if (schema.nullable && value.is_null()) return;
    switch (schema.kind) {
      case Schema::Kind::boolean: require<bool>(schema, value, path); return;
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
    const bool below = schema.low_open ? !(found > schema.low) : !(found >= schema.low);
    const bool above = schema.high_open ? !(found < schema.high) : !(found <= schema.high);
    if (below || above) refuse(format_number(found, 6) + " is outside its range", path);
  }

  void text(const Schema& schema, Value& value, const std::string& path) const {
    const auto& found = require<std::string>(schema, value, path);
    const auto& choices = schema.choices;
    const bool chosen = std::find(choices.begin(), choices.end(), found) != choices.end();
    if (!choices.empty() && !chosen) refuse("invalid value `" + shorten(found) + "`", path);
    if (!choices.empty()) return;
    const auto characters = count_characters(found);
    const bool fits = characters >= schema.least_items && characters <= schema.most_items;
    if (!fits || !are_all_of(found, schema.characters)) {
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

const Schema* keep(Schema made) { return new Schema(std::move(made)); }

}  // namespace

void apply(const Schema& schema, Value& value, const std::string& what) {
  Applier(what).apply(schema, value, "$");
}

namespace schema {

const Schema* boolean() {
  Schema out;
  out.kind = Schema::Kind::boolean;
  return keep(out);
}

const Schema* integer(std::int64_t least, std::int64_t most) {
  Schema out;
  out.kind = Schema::Kind::integer;
  out.least = least;
  out.most = most;
  return keep(out);
}

const Schema* real(double low, double high, bool low_open, bool high_open) {
  Schema out;
  out.kind = Schema::Kind::real;
  out.low = low;
  out.high = high;
  out.low_open = low_open;
  out.high_open = high_open;
  return keep(out);
}

const Schema* text(const std::string& characters, std::size_t least, std::size_t most) {
  Schema out;
  out.kind = Schema::Kind::text;
  out.characters = characters;
  out.least_items = least;
  out.most_items = most;
  return keep(out);
}

const Schema* choice(std::vector<std::string> choices) {
  Schema out;
  out.kind = Schema::Kind::text;
  out.choices = std::move(choices);
  return keep(out);
}

const Schema* list(const Schema* item, std::size_t least, std::size_t most) {
  Schema out;
  out.kind = Schema::Kind::list;
  out.item = item;
  out.least_items = least;
  out.most_items = most;
  return keep(out);
}

const Schema* tuple(std::vector<const Schema*> items) {
  Schema out;
  out.kind = Schema::Kind::tuple;
  out.items = std::move(items);
  return keep(out);
}

const Schema* map(const Schema* key, const Schema* item, std::size_t least, std::size_t most) {
  Schema out = *list(item, least, most);
  out.kind = Schema::Kind::map;
  out.key = key;
  return keep(out);
}

const Schema* object(std::vector<Field> fields) {
  Schema out;
  out.fields = std::move(fields);
  return keep(out);
}

const Schema* nullable(const Schema* schema) {
  Schema out = *schema;
  out.nullable = true;
  return keep(out);
}

}  // namespace schema

}  // namespace edgetok_impl
