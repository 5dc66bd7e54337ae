// Byte pair encoding by onnxruntime-extensions, which is loaded when it is asked for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "controller.hpp"
#include "tokenizer_file.hpp"

namespace edgetok_impl {

class Merger {
 public:
  // `library` is the path of libortextensions.so, or its name to have the system look for it. It stays
  // loaded until the process ends. Throws Error(incompatible) if it cannot be had or is another version.
  Merger(const TokenizerFile& file, const std::string& library);

  // The ids of each piece, of which the ids of single characters or bytes are given. One thread at a
  // time works, the others wait.
  std::vector<Ids> merge(const std::vector<Ids>& pieces) const;

 private:
  struct Loaded;
  std::shared_ptr<Loaded> loaded_;
};

}  // namespace edgetok_impl
