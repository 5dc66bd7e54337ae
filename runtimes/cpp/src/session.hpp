// Graphs in ONNX Runtime.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "backend.hpp"
#include "weights.hpp"

namespace edgetok_impl {

// All buffers of a runtime on the host; see `Backend`.
class Memory {
 public:
  Buffer buffer(const Tensor& tensor);
  std::int64_t cache_bytes() const;
  std::int64_t other_bytes() const;

 private:
  struct Block {
    std::shared_ptr<void> memory;
    std::int64_t bytes = 0;
  };
  std::map<std::pair<std::string, std::string>, Block> blocks_;  // by place and dtype
};

// Sessions that share the environment, buffers, and weights that were packed once.
class OrtBackend : public Backend {
 public:
  OrtBackend(const Bundle& bundle, const BackendOptions& options);

  std::unique_ptr<Graph> bind(const Stage& stage) override;
  std::int64_t cache_bytes() const override { return memory_.cache_bytes(); }
  std::int64_t other_bytes() const override { return memory_.other_bytes(); }

 private:
  struct FreePacked {
    void operator()(OrtPrepackedWeightsContainer* packed) const;
  };
  Ort::Session open(const Stage& stage);

  const Bundle& bundle_;
  std::string device_, folder_;  // folder: of a provider's engines
  int threads_;
  bool packed_;
  Memory memory_;
  // Longer than the sessions, which share what is in them.
  Weights weights_;
  std::unique_ptr<OrtPrepackedWeightsContainer, FreePacked> container_;
};

}  // namespace edgetok_impl
