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

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Schema {
  enum class Kind { boolean, integer, real, text, list, tuple, map, object };

  Kind kind = Kind::object;
  bool nullable = false;
  std::int64_t least = 0, most = 0;           // of an integer
  double low = 0, high = 0;                   // of a real
  bool low_open = false, high_open = false;   // whether low and high themselves are out
  std::string characters;                     // of a text: those that it may have, all if none are named
  std::vector<std::string> choices;           // of a text
  const Schema* item = nullptr;               // of a list or map
  const Schema* key = nullptr;                // of a map
  std::size_t least_items = 0;                // of a list or map; characters of a text
  std::size_t most_items = std::numeric_limits<std::size_t>::max();
  std::vector<const Schema*> items;           // of a tuple
  std::vector<Field> fields;                  // of an object
};

// Checks a value, writes what missing fields mean into it, and makes reals of integers where a real
// is wanted. Throws Error(bundle) naming the JSON path.
void apply(const Schema& schema, Value& value, const std::string& what);

// Of whole files, as the Python code says; written by make_generated.py.
const Schema* manifest_schema();
const Schema* encoder_manifest_schema();  // of a manifest that names a task
const Schema* image_plan_schema();
const Schema* prompt_plan_schema();
const Schema* bench_table_schema();

// What schemas are made of, once and for ever.
namespace schema {
const Schema* boolean();
const Schema* integer(std::int64_t least, std::int64_t most);
const Schema* real(double low, double high, bool low_open = false, bool high_open = false);
// `characters` as in the brackets of a pattern, such as a-z0-9_; none: any.
const Schema* text(const std::string& characters, std::size_t least, std::size_t most);
const Schema* choice(std::vector<std::string> choices);
const Schema* list(const Schema* item, std::size_t least = 0,
                   std::size_t most = std::numeric_limits<std::size_t>::max());
const Schema* tuple(std::vector<const Schema*> items);
const Schema* map(const Schema* key, const Schema* item, std::size_t least = 0,
                  std::size_t most = std::numeric_limits<std::size_t>::max());
const Schema* object(std::vector<Field> fields);
const Schema* nullable(const Schema* schema);
}  // namespace schema

}  // namespace edgetok_impl
