// The calls of toolkit.hpp in TensorRT, or TensorRT for RTX, and CUDA. Compiled where they were found;
// it decides nothing, so that what decides is tested without them.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include "error.hpp"
#include "toolkit.hpp"

namespace edgetok_impl {

namespace {

#ifdef TRT_MAJOR_RTX
const char kDevice[] = "rtx", kModule[] = "tensorrt_rtx";
#else
const char kDevice[] = "tensorrt", kModule[] = "tensorrt";
#endif

class FirstGpu : public Cuda {
 public:
  ~FirstGpu() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  cudaStream_t stream() const { return stream_; }

  int start(GpuName& found) override {
    cudaDeviceProp properties{};
    int driver = 0;
    int status = cudaSetDevice(0);
    if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, 0);
    if (status == cudaSuccess) status = cudaDriverGetVersion(&driver);
    if (status == cudaSuccess) status = cudaStreamCreate(&stream_);
    if (status != cudaSuccess) return status;
    found.name = properties.name;
    found.capability = "sm" + std::to_string(properties.major) + std::to_string(properties.minor);
    found.driver = std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
    return status;
  }

  int allocate(std::size_t bytes, void** address) override { return cudaMalloc(address, bytes); }
  int clear(void* address, std::size_t bytes) override { return cudaMemset(address, 0, bytes); }
  int release(void* address) override { return cudaFree(address); }
  // From pageable memory these return once the source may change.
  int upload(void* target, const void* source, std::size_t bytes) override {
    return cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream_);
  }
  int download(void* target, const void* source, std::size_t bytes) override {
    return cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, stream_);
  }
  int wait() override { return cudaStreamSynchronize(stream_); }
  int begin_recording() override { return cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal); }

  int end_recording(void** work) override {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    int status = cudaStreamEndCapture(stream_, &graph);
    if (status == cudaSuccess) status = cudaGraphInstantiateWithFlags(&ready, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    *work = ready;
    return status;
  }

  int launch(void* work) override { return cudaGraphLaunch(static_cast<cudaGraphExec_t>(work), stream_); }
  int forget(void* work) override { return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(work)); }

  std::string explain(int status) const override {
    const auto code = static_cast<cudaError_t>(status);
    return std::string(cudaGetErrorName(code)) + " (" + cudaGetErrorString(code) + ")";
  }

 private:
  cudaStream_t stream_ = nullptr;
};

// Keeps the last error instead of printing it.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> held(mutex_);
      last_ = message;
    } catch (...) {
    }
  }
  std::string last() const {
    const std::lock_guard<std::mutex> held(mutex_);
    return last_.empty() ? "it gave no reason" : last_;
  }

 private:
  mutable std::mutex mutex_;
  std::string last_;
};

std::string dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return "float32";
    case nvinfer1::DataType::kHALF: return "float16";
    case nvinfer1::DataType::kBF16: return "bfloat16";
    case nvinfer1::DataType::kINT8: return "int8";
    case nvinfer1::DataType::kUINT8: return "uint8";
    case nvinfer1::DataType::kINT32: return "int32";
    case nvinfer1::DataType::kINT64: return "int64";
    case nvinfer1::DataType::kBOOL: return "bool";
    default: return "type " + std::to_string(static_cast<int>(type));
  }
}

Shape shape_of(const nvinfer1::Dims& dims) {
  return {dims.d, dims.d + std::clamp<int>(dims.nbDims, 0, nvinfer1::Dims::MAX_DIMS)};
}

// Calls that releases from some on have.

template <class E>
auto find_alias(const E& engine, const char* name, int) -> decltype(engine.getAliasedInputTensor(name)) {
  return engine.getAliasedInputTensor(name);
}
template <class E>
const char* find_alias(const E&, const char*, long) {
  return nullptr;
}

template <class C>
auto is_capturable(const C& context, cudaStream_t stream, int) -> decltype(context.isStreamCapturable(stream)) {
  return context.isStreamCapturable(stream);
}
template <class C>
bool is_capturable(const C&, cudaStream_t, long) {
  return true;
}

class Context : public EngineContext {
 public:
  // With what it was configured by, if anything, which it may look at.
  Context(std::unique_ptr<nvinfer1::IExecutionContext> context, std::shared_ptr<void> config, cudaStream_t stream)
      : config_(std::move(config)), context_(std::move(context)), stream_(stream) {}

  bool use_profile(int index) override { return context_->setOptimizationProfileAsync(index, stream_); }

  bool set_shape(const std::string& name, const Shape& shape) override {
    if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) return false;
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return context_->setInputShape(name.c_str(), dims);
  }

  bool set_address(const std::string& name, void* address) override {
    return context_->setTensorAddress(name.c_str(), address);
  }
  bool may_be_recorded() override { return is_capturable(*context_, stream_, 0); }
  bool enqueue() override { return context_->enqueueV3(stream_); }

 private:
  std::shared_ptr<void> config_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  cudaStream_t stream_;
};

// What TensorRT for RTX compiles on the GPU, shared by all contexts; nothing elsewhere.
class Kernels {
 public:
  void keep(std::string held) { held_ = std::move(held); }

  template <class E>
  std::unique_ptr<EngineContext> make_context(E& engine, cudaStream_t stream) {
#ifdef TRT_MAJOR_RTX
    auto config = std::shared_ptr<nvinfer1::IRuntimeConfig>(engine.createRuntimeConfig());
    if (config == nullptr) return nullptr;
    if (cache_ == nullptr) {
      cache_.reset(config->createRuntimeCache());
      // False of another driver or GPU: it begins afresh.
      if (cache_ != nullptr && !held_.empty()) cache_->deserialize(held_.data(), held_.size());
    }
    if (cache_ != nullptr) config->setRuntimeCache(*cache_);
    return wrap(engine.createExecutionContext(config.get()), config, stream);
#else
    return wrap(engine.createExecutionContext(), nullptr, stream);
#endif
  }

  std::string serialize() const {
#ifdef TRT_MAJOR_RTX
    if (cache_ == nullptr) return "";
    const std::unique_ptr<nvinfer1::IHostMemory> made(cache_->serialize());
    return made == nullptr ? "" : std::string(static_cast<const char*>(made->data()), made->size());
#else
    return "";
#endif
  }

 private:
  static std::unique_ptr<EngineContext> wrap(nvinfer1::IExecutionContext* made, std::shared_ptr<void> config,
                                             cudaStream_t stream) {
    std::unique_ptr<nvinfer1::IExecutionContext> context(made);
    if (context == nullptr) return nullptr;
    return std::make_unique<Context>(std::move(context), std::move(config), stream);
  }

  std::string held_;
#ifdef TRT_MAJOR_RTX
  std::unique_ptr<nvinfer1::IRuntimeCache> cache_;
#endif
};

class OpenEngine : public Engine {
 public:
  OpenEngine(std::unique_ptr<nvinfer1::ICudaEngine> engine, Kernels& kernels, cudaStream_t stream)
      : engine_(std::move(engine)), kernels_(kernels), stream_(stream) {}

  std::vector<EngineTensor> tensors() const override {
    std::vector<EngineTensor> out;
    for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const bool is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      const bool on_device = engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kDEVICE;
      out.push_back({name, dtype_of(engine_->getTensorDataType(name)), shape_of(engine_->getTensorShape(name)),
                     is_input, on_device});
    }
    return out;
  }

  int profiles() const override { return engine_->getNbOptimizationProfiles(); }

  std::string aliased_input(const std::string& output) const override {
    const char* found = find_alias(*engine_, output.c_str(), 0);
    return found == nullptr ? "" : found;
  }

  std::unique_ptr<EngineContext> make_context() override { return kernels_.make_context(*engine_, stream_); }

 private:
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  Kernels& kernels_;
  cudaStream_t stream_;
};

class NvInfer : public Toolkit {
 public:
  // Nothing if TensorRT cannot start; `reason` says why.
  static std::unique_ptr<NvInfer> start(std::string& reason) {
    auto made = std::make_unique<NvInfer>();
    made->runtime_.reset(nvinfer1::createInferRuntime(made->logger_));
    if (made->runtime_ != nullptr) return made;
    reason = made->logger_.last();
    return nullptr;
  }

  Cuda& cuda() override { return gpu_; }
  std::string module() const override { return kModule; }

  std::string version() const override {
    std::string out = std::to_string(getInferLibMajorVersion());
    for (const int part : {getInferLibMinorVersion(), getInferLibPatchVersion(), getInferLibBuildVersion()}) {
      out += "." + std::to_string(part);
    }
    return out;
  }

  std::unique_ptr<Engine> open(const std::string& bytes) override {
    std::unique_ptr<nvinfer1::ICudaEngine> made(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (made == nullptr) return nullptr;
    return std::make_unique<OpenEngine>(std::move(made), kernels_, gpu_.stream());
  }

  std::string last_error() const override { return logger_.last(); }
  void use_kernels(const std::string& kept) override { kernels_.keep(kept); }
  std::string kernels() override { return kernels_.serialize(); }

 private:
  Logger logger_;  // outlives all that it is given to
  FirstGpu gpu_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  Kernels kernels_;
};

}  // namespace

std::unique_ptr<Toolkit> open_toolkit(const std::string& device) {
  if (device != kDevice) {
    throw incompatible("device " + device + " needs another TensorRT than this library was built with, which serves " +
                       "device " + kDevice + "; use that, or build the library again");
  }
  std::string reason;
  if (auto made = NvInfer::start(reason)) return made;
  throw incompatible(std::string(kModule) + " cannot start: " + reason + "; check the driver with `edgetok doctor`");
}

}  // namespace edgetok_impl
