// Graphs as engines of TensorRT, over one set of buffers in the GPU's memory.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "backend.hpp"
#include "engine_cache.hpp"
#include "gpu.hpp"
#include "toolkit.hpp"

namespace edgetok_impl {

// Engines that are in the cache; nothing is built. Everything is allocated when graphs are bound: an
// engine, a context for each rung, and the buffers.
class EngineBackend : public Backend {
 public:
  EngineBackend(const Bundle& bundle, const BackendOptions& options);
  ~EngineBackend() override;

  std::unique_ptr<Graph> bind(const Stage& stage) override;
  std::int64_t cache_bytes() const override { return memory_.cache_bytes(); }
  std::int64_t other_bytes() const override { return memory_.other_bytes(); }

 private:
  struct Opened {
    const EngineEntry* entry;
    std::string constants;
    std::unique_ptr<Engine> engine;
  };
  Opened& open(const EngineEntry& entry);

  const Bundle& bundle_;
  std::unique_ptr<Toolkit> toolkit_;
  Gpu gpu_;
  EngineCache cache_;
  std::string kernels_path_, kernels_;
  DeviceMemory memory_;
  std::map<std::string, Opened> engines_;  // by path
};

}  // namespace edgetok_impl
