// The weights of a bundle, mapped once and lent to the sessions that pack them.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace edgetok_impl {

// Sessions share packed weights only where the caller owns what was packed, and what is mapped from
// the file that was hashed cannot be exchanged by its name. It must outlive the sessions.
class Weights {
 public:
  explicit Weights(const Bundle& bundle) : bundle_(bundle) {}
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  // Has a session read from here what the kernels of an admitted graph pack.
  void lend(const std::string& graph, Ort::SessionOptions& options);

  // Gives back the pages that only packing has read; whoever reads one again gets it from the file.
  void release_pages() const;

 private:
  struct Map {
    void* first = nullptr;
    std::size_t bytes = 0;
  };
  const Map& map(const std::string& path);

  const Bundle& bundle_;
  std::map<std::string, Map> maps_;  // by path
  std::vector<Ort::Value> lent_;
};

}  // namespace edgetok_impl
