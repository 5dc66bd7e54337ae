#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace edgetok_impl {

// SHA-256, piece by piece.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(const void* data, std::size_t bytes);
  std::string hex();  // ends it

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(const std::string& bytes);

}  // namespace edgetok_impl
