// Errors inside the library; api.cpp turns them into a status and a message.
#pragma once

#include <stdexcept>
#include <string>

namespace edgetok_impl {

enum class Code { usage = 2, bundle = 3, incompatible = 4, input = 5, resources = 6, cancelled = 8 };

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  Code code;
};

inline Error bundle_error(const std::string& message) { return {Code::bundle, message}; }
inline Error usage_error(const std::string& message) { return {Code::usage, message}; }
inline Error input_error(const std::string& message) { return {Code::input, message}; }
inline Error incompatible(const std::string& message) { return {Code::incompatible, message}; }

}  // namespace edgetok_impl
