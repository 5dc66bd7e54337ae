// One rung of an engine: a context whose tensors have their addresses.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend.hpp"
#include "engine_cache.hpp"
#include "gpu.hpp"
#include "toolkit.hpp"

namespace edgetok_impl {

struct EngineRung {
  int index;
  bool own_profile;
  const std::vector<Constant>& constants;
  const std::string& values;  // of all constants
  std::string way_out;        // where the engine does not do
};

class EngineGraph : public Graph {
 public:
  // Throws Error(incompatible) where the engine's tensors are not those of the stage.
  EngineGraph(const Stage& stage, Engine& engine, Gpu& gpu, DeviceMemory& memory, const EngineRung& rung);
  ~EngineGraph() override;

  // Returns before the work is done; whoever reads an output waits for it.
  void run() override;

 private:
  using Places = std::vector<void*>;

  void hold(const Stage& stage, const std::map<std::string, EngineTensor>& tensors, DeviceMemory& memory);
  void place_constant(const Constant& constant, const EngineRung& rung);
  void find_twins(const Engine& engine);
  void bind();
  void compute();
  Places places() const;
  void require(bool done, const std::string& what) const;

  Gpu& gpu_;
  std::string way_out_;
  bool may_record_;
  int runs_ = 0;
  std::unique_ptr<EngineContext> context_;
  std::vector<std::shared_ptr<void>> constants_;
  std::map<std::string, Buffer> twins_;  // outputs that may not lie where the graph reads them
  std::map<Places, std::shared_ptr<void>> recorded_;
};

}  // namespace edgetok_impl
