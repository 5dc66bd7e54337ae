// What runs the graphs of a bundle. The runtime knows no more of ONNX Runtime or TensorRT than this.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "backends/buffer.hpp"
#include "bundle/bundle.hpp"

namespace edgetok_impl {

// The graph of a stage, bound once to fixed memory: a run allocates nothing of its own.
class Graph {
 public:
  virtual ~Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Computes the outputs from the inputs, both in place.
  virtual void run() = 0;

  bool reads(const std::string& name) const { return inputs_.count(name) != 0; }
  bool writes(const std::string& name) const { return outputs_.count(name) != 0; }
  const Buffer& input(const std::string& name) const { return find(inputs_, name); }
  const Buffer& output(const std::string& name) const { return find(outputs_, name); }
  const std::map<std::string, Buffer>& inputs() const { return inputs_; }
  const std::map<std::string, Buffer>& outputs() const { return outputs_; }

 protected:
  explicit Graph(std::string file) : file_(std::move(file)) {}

  std::string file_;
  std::map<std::string, Buffer> inputs_, outputs_;

 private:
  const Buffer& find(const std::map<std::string, Buffer>& buffers, const std::string& name) const;
};

// Makes graphs of stages over one set of buffers: tensors of one name are one memory in every graph,
// so the tower writes where `compress` reads, all rungs share one cache, and what present_* writes is
// what past_* reads at the next step. The graph with the largest tensor of a name must come first.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::unique_ptr<Graph> bind(const Stage& stage) = 0;
  virtual std::int64_t cache_bytes() const = 0;  // of the KV cache
  virtual std::int64_t other_bytes() const = 0;  // of all other inputs and outputs
};

// Checks the graph of a stage that serves a rung against the manifest, and binds it.
using MakeGraph = std::function<std::unique_ptr<Graph>(const Stage& stage, const Rung& rung)>;

struct BackendOptions {
  std::string device = "cpu";
  std::string flavour = "ort";
  std::string precision = "fp16";  // of matrix products in engines
  int threads = 1;
  bool packed = false;  // the weights of every graph, not of decode alone
};

// Which of a bundle's graphs are read: the device's unless others are asked for. Throws Error(usage)
// for an unknown device.
std::string pick_flavour(const std::string& device, const std::string& asked, const Manifest& m);

// The bundle must outlive it. Throws Error(usage) for an unknown device, Error(incompatible) for one
// that this library or this machine does not have.
std::unique_ptr<Backend> make_backend(const Bundle& bundle, const BackendOptions& options);

}  // namespace edgetok_impl
