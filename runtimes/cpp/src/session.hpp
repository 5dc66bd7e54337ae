// One graph in ONNX Runtime, bound once to fixed memory: a run allocates nothing of its own.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "error.hpp"
#include "manifest.hpp"

namespace edgetok_impl {

// A tensor at a fixed address.
struct Buffer {
  Tensor tensor;
  std::shared_ptr<void> memory;
  std::size_t bytes = 0;

  template <class T>
  T* as() const {
    return static_cast<T*>(memory.get());
  }
  template <class T>
  std::size_t count() const {
    return bytes / sizeof(T);
  }
  // Refuses what does not fill it, so that no shape that nobody foresaw is written beyond.
  template <class T>
  void write(const std::vector<T>& values) const {
    if (values.size() * sizeof(T) != bytes) {
      throw bundle_error("tensor " + tensor.name + " has another size than what is written to it");
    }
    std::memcpy(memory.get(), values.data(), bytes);
  }
};

std::int64_t bytes_of(const Tensor& tensor);

// All buffers of a runtime: tensors of one name are one buffer in every graph, and what present_*
// writes is what past_* reads at the next step. The largest tensor of a name must come first.
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
  std::map<std::pair<std::string, std::string>, Block> blocks_;  // by name and dtype
};

// What sessions share: the environment, and weights that were packed once.
class Sessions {
 public:
  Sessions(std::string root, int threads);
  Ort::Session make(const std::string& graph, const Stage& stage) const;

 private:
  struct FreePacked {
    void operator()(OrtPrepackedWeightsContainer* packed) const;
  };
  std::string root_;
  int threads_;
  std::unique_ptr<OrtPrepackedWeightsContainer, FreePacked> packed_;
};

class BoundGraph {
 public:
  BoundGraph(Ort::Session session, const Stage& stage, Memory& memory);
  void run();

  bool reads(const std::string& name) const { return inputs_.count(name) != 0; }
  bool writes(const std::string& name) const { return outputs_.count(name) != 0; }
  const Buffer& input(const std::string& name) const { return find(inputs_, name); }
  const Buffer& output(const std::string& name) const { return find(outputs_, name); }
  const std::map<std::string, Buffer>& inputs() const { return inputs_; }
  const std::map<std::string, Buffer>& outputs() const { return outputs_; }

 private:
  const Buffer& find(const std::map<std::string, Buffer>& buffers, const std::string& name) const;

  std::string file_;
  Ort::Session session_;
  Ort::IoBinding binding_;
  std::map<std::string, Buffer> inputs_, outputs_;
};

// Checks a graph that serves a rung against the manifest, and binds it.
using MakeGraph = std::function<std::unique_ptr<BoundGraph>(const Stage& stage, const Rung& rung)>;

}  // namespace edgetok_impl
