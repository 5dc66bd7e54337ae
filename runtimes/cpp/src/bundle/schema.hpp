// What a JSON file may hold, as tables; checked before a value is looked at.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "bundle/value.hpp"

namespace edgetok_impl {

struct Schema;

struct Field {
  std::string name;
  const Schema* schema;
  std::optional<Value> fallback;  // what stands for a missing field; none: it must be there
};

struct Schema {
  enum class Kind { integer, real, text, list, tuple, map, object };
  using Test = bool (*)(const std::string&);

  Kind kind = Kind::object;
  bool nullable = false;
  std::int64_t least = 0, most = 0;       // of an integer
  double low = 0, high = 0;               // of a real
  bool open = false;                      // whether low and high themselves are out
  bool low_open = false;
  std::size_t most_characters = 0;        // of a text
  Test test = nullptr;                    // of a text
  std::vector<std::string> choices;       // of a text
  const Schema* item = nullptr;           // of a list or map
  const Schema* key = nullptr;            // of a map
  std::size_t least_items = 0;
  std::size_t most_items = std::numeric_limits<std::size_t>::max();
  std::vector<const Schema*> items;       // of a tuple
  std::vector<Field> fields;              // of an object
};

// Checks a value, writes what missing fields mean into it, and makes reals of integers where a real
// is wanted. Throws Error(bundle) naming the JSON path.
void apply(const Schema& schema, Value& value, const std::string& what);

namespace schema {
Schema integer(std::int64_t least, std::int64_t most);
Schema real(double low, double high);
Schema share();   // above 0, below 1
Schema text(Schema::Test test, std::size_t most_characters);
Schema choice(std::vector<std::string> choices);
Schema list(const Schema* item, std::size_t least = 0,
            std::size_t most = std::numeric_limits<std::size_t>::max());
Schema tuple(std::vector<const Schema*> items);
Schema map(const Schema* key, const Schema* item,
           std::size_t most = std::numeric_limits<std::size_t>::max());
Schema object(std::vector<Field> fields);
Schema nullable(Schema schema);

bool is_name(const std::string& text);
bool is_sha256(const std::string& text);
bool is_signal(const std::string& text);
bool is_anything(const std::string& text);
}  // namespace schema

}  // namespace edgetok_impl
