// A JSON value, as the strict reader leaves it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace edgetok_impl {

struct Value;
using List = std::vector<Value>;
using Object = std::map<std::string, Value>;

struct Value {
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, List, Object> data;

  Value() = default;
  template <class T>
  Value(T value) : data(std::move(value)) {}  // NOLINT: a value is what it holds

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data);
  }
  template <class T>
  const T& as() const {
    return std::get<T>(data);
  }
  bool is_null() const { return is<std::nullptr_t>(); }
  std::int64_t integer() const { return as<std::int64_t>(); }
  double real() const { return as<double>(); }
  const std::string& text() const { return as<std::string>(); }
  const List& list() const { return as<List>(); }
  const Object& object() const { return as<Object>(); }
  const Value& at(const std::string& name) const { return object().at(name); }
};

// JSON that two careful readers cannot understand differently.
//
// Throws Error(bundle) for anything too large, too deep, not UTF-8, with duplicate keys or numbers
// that no double holds.
Value parse_strict(const std::string& bytes, const std::string& what, std::size_t limit_bytes);

// As the exporter writes it: keys sorted, one space of indent, a newline at the end.
std::string encode_strict(const Value& value);

}  // namespace edgetok_impl
