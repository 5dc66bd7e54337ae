// Engines that `edgetok build` put into the user's cache; docs/engines.md says how they are pinned.
#pragma once

#include <string>
#include <vector>

#include "manifest.hpp"

namespace edgetok_impl {

// An input of an engine that a rung's own graph held, among the bytes beside the engine.
struct Constant {
  Tensor tensor;
  std::size_t offset = 0;
};

// What engines must have been made from to be run here.
struct Wanted {
  std::string bundle;  // digest
  std::string precision, module, version;
  std::string runs_on;  // the GPU, as recipes name it
  std::string title() const { return module + " " + version; }
};

struct EngineEntry {
  std::string path;  // without the suffix
  std::string name;  // such as decode, or prefill for that of all rungs
  std::string graph;
  Wanted made_for;  // but for `runs_on`
  std::string edgetok;
  std::vector<std::string> runs_on;
  std::vector<std::string> files;  // graphs of the bundle, one per rung
  std::vector<std::vector<Constant>> constants;  // of each
  std::int64_t bytes = 0, constants_bytes = 0;
  std::string sha256, constants_sha256;
};

class EngineCache {
 public:
  // Looks at what there is of a bundle; reads no engine yet.
  explicit EngineCache(Wanted wanted);

  // The engine that serves a graph: of all rungs where there is one. Throws Error(incompatible) that
  // says what there is and how to build it.
  const EngineEntry& find(const std::string& file) const;

  // Bytes that nobody has touched since they were published. Throws Error(incompatible) otherwise.
  std::string read_engine(const EngineEntry& entry) const;
  std::string read_constants(const EngineEntry& entry) const;

  // How an engine that does not do is replaced, as the end of a sentence.
  std::string way_out() const;

 private:
  std::string missing(const std::string& file) const;

  Wanted wanted_;
  std::string folder_;
  std::vector<EngineEntry> fitting_;
  std::vector<std::string> others_;  // what else there is, in words
};

// Whether versions name the same release, as far as both say: 10.3.0 and 10.3.0.26 do.
bool is_same_version(const std::string& one, const std::string& other);

// Where TensorRT for RTX keeps what it compiled for a GPU.
std::string kernels_path(const std::string& title, const std::string& gpu);

}  // namespace edgetok_impl
