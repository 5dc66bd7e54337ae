#include "backends/session.hpp"

#include <algorithm>
#include <cstdlib>

#include "backends/providers.hpp"
#include "backends/user_cache.hpp"
#include "bundle/buffers.hpp"
#include "machine.hpp"

namespace edgetok_impl {

namespace {

struct Format {
  const char* name;
  ONNXTensorElementDataType type;
};

constexpr Format kFormats[] = {
    {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}, {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},     {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},   {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
};

ONNXTensorElementDataType type_of(const Tensor& tensor) {
  for (const auto& format : kFormats) {
    if (tensor.dtype == format.name) return format.type;
  }
  throw bundle_error("tensor " + tensor.name + " is of type " + tensor.dtype);
}

// One for the process, never destroyed: ONNX Runtime's threads may outlive other statics.
const Ort::Env& environment() {
  static const Ort::Env* const made = [] {
    // Releases from 1.29 on report session data to their maker unless told not to, here and before.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // NOLINT(concurrency-mt-unsafe): edgetok.h says when
    auto* env = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "edgetok");
    env->DisableTelemetryEvents();
    return env;
  }();
  return *made;
}

std::string brief(const std::string& text) { return text.substr(0, std::min(text.find('\n'), std::size_t{300})); }

Error translate(const std::string& file, const Ort::Exception& error) {
  const std::string text = error.what();
  for (const char* sign : {"bad_alloc", "allocate", "out of memory"}) {
    if (text.find(sign) == std::string::npos) continue;
    return {Code::resources, file + ": memory ran out (" + brief(text) +
                                 "); load fewer rungs, or export with int4 weights and an int8 KV cache"};
  }
  if (error.GetOrtErrorCode() == ORT_NO_SUCHFILE) {
    return bundle_error(file + ": its weights cannot be opened: " + brief(text));
  }
  return incompatible(file + ": onnxruntime " + OrtGetApiBase()->GetVersionString() + " cannot run it: " +
                      brief(text) + "; upgrade onnxruntime or export again");
}

template <class Work>
auto translated(const std::string& file, Work work) {
  try {
    return work();
  } catch (const Ort::Exception& error) {
    throw translate(file, error);
  }
}

// One row a run, so packed weights, waiting threads and kept memory pay: see runtimes/backends/providers.py.
bool is_step(const Stage& stage) { return stage.stage == "decode"; }

// They turn weights instead of values, and of those that were lent a session reads what was lent,
// unturned: answers would be wrong, silently where the weights are square.
constexpr char kTurnWeights[] = "TransposeOptimizer;TransposeOptimizer_CPUExecutionProvider";

Ort::SessionOptions make_options(const Stage& stage, const std::string& root, int threads, bool packed) {
  const bool step = is_step(stage);
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  if (!step) options.DisableCpuMemArena();
  options.AddConfigEntry("session.model_external_initializers_file_folder_path", root.c_str());
  options.AddConfigEntry("session.disable_prepacking", step || packed ? "0" : "1");
  if (stage.flavour == "ort" && overflows_in_int8()) options.AddConfigEntry("session.x64quantprecision", "1");
  if (packed) options.AddConfigEntry("optimization.disable_specified_optimizers", kTurnWeights);
  options.AddConfigEntry("session.intra_op.allow_spinning", step ? "1" : "0");
  return options;
}

// A session whose inputs and outputs are bound to buffers.
class OrtGraph : public Graph {
 public:
  OrtGraph(Ort::Session session, const Stage& stage, Memory& memory, bool on_host);
  void run() override;

 private:
  void copy_inputs();

  Ort::Session session_;
  Ort::IoBinding binding_;
  bool on_host_;
};

Ort::Value wrap(const Buffer& buffer) {
  const auto info = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto& shape = buffer.tensor.shape;
  return Ort::Value::CreateTensor(info, buffer.memory.get(), buffer.bytes, shape.data(), shape.size(),
                                  type_of(buffer.tensor));
}

OrtGraph::OrtGraph(Ort::Session session, const Stage& stage, Memory& memory, bool on_host)
    : Graph(stage.file), session_(std::move(session)), binding_(session_), on_host_(on_host) {
  translated(file_, [&] {
    for (const auto& tensor : stage.inputs) {
      const Buffer& buffer = inputs_[tensor.name] = memory.buffer(tensor);
      binding_.BindInput(tensor.name.c_str(), wrap(buffer));
    }
    for (const auto& tensor : stage.outputs) {
      const Buffer& buffer = outputs_[tensor.name] = memory.buffer(tensor);
      binding_.BindOutput(tensor.name.c_str(), wrap(buffer));
    }
    return 0;
  });
}

void OrtGraph::run() {
  translated(file_, [&] {
    if (!on_host_) copy_inputs();
    session_.Run(Ort::RunOptions{nullptr}, binding_);
    if (!on_host_) binding_.SynchronizeOutputs();
    return 0;
  });
}

// On another device ONNX Runtime copies inputs when they are bound, and outputs when it has run.
void OrtGraph::copy_inputs() {
  for (const auto& [name, buffer] : inputs_) binding_.BindInput(name.c_str(), wrap(buffer));
  binding_.SynchronizeInputs();
}

// GroupQueryAttention of a GPU may have been compiled without caches of few bits.
void require_cache(const Manifest& m, const BackendOptions& options) {
  const Buffers cache = list_buffers(m, options.flavour);
  const bool coarse = std::any_of(cache.begin(), cache.end(), [](const auto& b) { return b.second.dtype != "float32"; });
  if (options.device == "cpu" || options.flavour != "ort" || !coarse) return;
  throw incompatible("a KV cache of " + m.kv_precision + " is not run on device " + options.device +
                     " by the C library; use flavour portable, device cpu, or the Python runtime");
}

}  // namespace

Buffer Memory::buffer(const Tensor& tensor) {
  const auto bytes = bytes_of(tensor);
  Block& block = blocks_[{place_of(tensor.name), tensor.dtype}];
  if (block.memory == nullptr || block.bytes < bytes) block = {allocate_zeros(bytes), bytes};
  return {tensor, block.memory, static_cast<std::size_t>(bytes), nullptr};
}

std::int64_t Memory::cache_bytes() const {
  std::int64_t total = 0;
  for (const auto& [key, block] : blocks_) total += is_cache(key.first) ? block.bytes : 0;
  return total;
}

std::int64_t Memory::other_bytes() const {
  std::int64_t total = -cache_bytes();
  for (const auto& [key, block] : blocks_) total += block.bytes;
  return total;
}

void OrtBackend::FreePacked::operator()(OrtPrepackedWeightsContainer* packed) const {
  Ort::GetApi().ReleasePrepackedWeightsContainer(packed);
}

OrtBackend::OrtBackend(const Bundle& bundle, const BackendOptions& options)
    : bundle_(bundle),
      device_(options.device),
      folder_(engine_folder(options.device, bundle.manifest().digest)),
      threads_(options.threads),
      packed_(options.packed),
      weights_(bundle) {
  environment();  // before anything else of ONNX Runtime
  translated("onnxruntime", [&] {
    require_provider(device_);
    return 0;
  });
  require_cache(bundle.manifest(), options);
  if (!folder_.empty()) make_folder(folder_);
  OrtPrepackedWeightsContainer* packed = nullptr;
  translated("onnxruntime", [&] {
    Ort::ThrowOnError(Ort::GetApi().CreatePrepackedWeightsContainer(&packed));
    return 0;
  });
  container_.reset(packed);
}

Ort::Session OrtBackend::open(const Stage& stage) {
  const std::string graph = bundle_.graph(stage);
  return translated(stage.file, [&] {
    auto options = make_options(stage, bundle_.root(), threads_, packed_);
    append_provider(options, device_, folder_);
    if (packed_ && device_ == "cpu") weights_.lend(graph, options);
    Ort::Session made(environment(), graph.data(), graph.size(), options, container_.get());
    if (packed_) weights_.release_pages();
    return made;
  });
}

std::unique_ptr<Graph> OrtBackend::bind(const Stage& stage) {
  return std::make_unique<OrtGraph>(open(stage), stage, memory_, device_ == "cpu");
}

}  // namespace edgetok_impl
