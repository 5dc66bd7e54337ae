// The few calls of CUDA and TensorRT that engines are run with, and nothing else. tensorrt.cpp makes
// them where TensorRT was found, no_tensorrt.cpp says that it was not, and tests have a library of
// their own behind them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace edgetok_impl {

// The GPU, as far as engines depend on it; edgetok/engines/device.py writes it alike.
struct GpuName {
  std::string name;        // as the driver calls it
  std::string capability;  // such as sm86
  std::string driver;      // version of CUDA that it serves, such as 13.0

  std::string text() const { return name + ", " + capability + ", driver for CUDA " + driver; }
};

// The first GPU and one stream on it. Calls return CUDA's status, which is 0 where all is well.
class Cuda {
 public:
  virtual ~Cuda() = default;
  virtual int start(GpuName& found) = 0;
  virtual int allocate(std::size_t bytes, void** address) = 0;
  virtual int clear(void* address, std::size_t bytes) = 0;
  virtual int release(void* address) = 0;
  virtual int upload(void* target, const void* source, std::size_t bytes) = 0;    // on the stream
  virtual int download(void* target, const void* source, std::size_t bytes) = 0;  // on the stream
  virtual int wait() = 0;
  virtual int begin_recording() = 0;
  virtual int end_recording(void** work) = 0;  // what was put on the stream since, to be launched
  virtual int launch(void* work) = 0;
  virtual int forget(void* work) = 0;
  virtual std::string explain(int status) const = 0;
};

// An input or output of an engine; -1 in its shape is what a context is told.
struct EngineTensor {
  std::string name, dtype;
  Shape shape;
  bool is_input = false;
  bool on_device = true;
};

// One state of an engine. False is a refusal.
class EngineContext {
 public:
  virtual ~EngineContext() = default;
  virtual bool use_profile(int index) = 0;
  virtual bool set_shape(const std::string& name, const Shape& shape) = 0;
  virtual bool set_address(const std::string& name, void* address) = 0;
  virtual bool may_be_recorded() = 0;
  virtual bool enqueue() = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::vector<EngineTensor> tensors() const = 0;
  virtual int profiles() const = 0;
  // The input in whose memory an output must lie; empty where there is none.
  virtual std::string aliased_input(const std::string& output) const = 0;
  virtual std::unique_ptr<EngineContext> make_context() = 0;  // none where memory ran out
};

// TensorRT or TensorRT for RTX; outlives what it makes.
class Toolkit {
 public:
  virtual ~Toolkit() = default;
  virtual Cuda& cuda() = 0;
  virtual std::string module() const = 0;   // as Python imports it: tensorrt or tensorrt_rtx
  virtual std::string version() const = 0;  // of what was loaded, such as 10.3.0.26
  virtual std::unique_ptr<Engine> open(const std::string& bytes) = 0;  // none where it is refused
  virtual std::string last_error() const = 0;
  // What TensorRT for RTX compiled on this GPU; what another driver made is not used.
  virtual void use_kernels(const std::string& kept) = 0;
  virtual std::string kernels() = 0;  // empty where there are none
};

// Of the device `tensorrt` or `rtx`. Throws Error(incompatible) where this library has none.
std::unique_ptr<Toolkit> open_toolkit(const std::string& device);

}  // namespace edgetok_impl
