#include "session.hpp"

#include <cstdlib>
#include <algorithm>

namespace edgetok_impl {

namespace {

struct Format {
  const char* name;
  ONNXTensorElementDataType type;
  std::int64_t bytes;
};

constexpr Format kFormats[] = {
    {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4}, {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2},
    {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1},     {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1},
    {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4},   {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
    {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1},
};

const Format& format_of(const Tensor& tensor) {
  for (const auto& format : kFormats) {
    if (tensor.dtype == format.name) return format;
  }
  throw bundle_error("tensor " + tensor.name + " is of type " + tensor.dtype);
}

// One for the process, never destroyed: ONNX Runtime's threads may outlive other statics.
const Ort::Env& environment() {
  static const Ort::Env* const made = [] {
    // Releases from 1.29 on report session data to their maker unless told not to.
    if (std::getenv("ORT_DISABLE_TELEMETRY") == nullptr) setenv("ORT_DISABLE_TELEMETRY", "1", 0);
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

// One row a run, so packed weights, waiting threads and kept memory pay: see runtimes/providers.py.
bool is_step(const Stage& stage) { return stage.stage == "decode"; }

Ort::SessionOptions make_options(const Stage& stage, const std::string& root, int threads) {
  const bool step = is_step(stage);
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  if (!step) options.DisableCpuMemArena();
  options.AddConfigEntry("session.model_external_initializers_file_folder_path", root.c_str());
  options.AddConfigEntry("session.disable_prepacking", step ? "0" : "1");
  options.AddConfigEntry("session.intra_op.allow_spinning", step ? "1" : "0");
  return options;
}

}  // namespace

std::int64_t bytes_of(const Tensor& tensor) {
  std::int64_t bytes = format_of(tensor).bytes;
  for (const auto size : tensor.shape) bytes *= size;  // admission keeps products below 2^33
  return bytes;
}

Buffer Memory::buffer(const Tensor& tensor) {
  std::string name = tensor.name;
  if (name.rfind("present_", 0) == 0) name = "past_" + name.substr(8);
  const auto bytes = bytes_of(tensor);
  Block& block = blocks_[{name, tensor.dtype}];
  if (block.memory == nullptr || block.bytes < bytes) {
    // Zeros become real memory when they are first written, so unused parts of the cache cost nothing.
    void* memory = std::calloc(1, static_cast<std::size_t>(std::max<std::int64_t>(1, bytes)));
    if (memory == nullptr) throw Error(Code::resources, "memory ran out; load fewer rungs");
    block = {std::shared_ptr<void>(memory, std::free), bytes};
  }
  return {tensor, block.memory, static_cast<std::size_t>(bytes)};
}

std::int64_t Memory::cache_bytes() const {
  std::int64_t total = 0;
  for (const auto& [key, block] : blocks_) {
    const bool cached = key.first.rfind("past_", 0) == 0 && key.first != "past_lengths";
    total += cached ? block.bytes : 0;
  }
  return total;
}

std::int64_t Memory::other_bytes() const {
  std::int64_t total = -cache_bytes();
  for (const auto& [key, block] : blocks_) total += block.bytes;
  return total;
}

void Sessions::FreePacked::operator()(OrtPrepackedWeightsContainer* packed) const {
  Ort::GetApi().ReleasePrepackedWeightsContainer(packed);
}

Sessions::Sessions(std::string root, int threads) : root_(std::move(root)), threads_(threads) {
  OrtPrepackedWeightsContainer* packed = nullptr;
  translated("onnxruntime", [&] {
    Ort::ThrowOnError(Ort::GetApi().CreatePrepackedWeightsContainer(&packed));
    return 0;
  });
  packed_.reset(packed);
}

Ort::Session Sessions::make(const std::string& graph, const Stage& stage) const {
  return translated(stage.file, [&] {
    const auto options = make_options(stage, root_, threads_);
    return Ort::Session(environment(), graph.data(), graph.size(), options, packed_.get());
  });
}

BoundGraph::BoundGraph(Ort::Session session, const Stage& stage, Memory& memory)
    : file_(stage.file), session_(std::move(session)), binding_(session_) {
  const auto info = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto wrap = [&](const Buffer& buffer) {
    return Ort::Value::CreateTensor(info, buffer.memory.get(), buffer.bytes, buffer.tensor.shape.data(),
                                    buffer.tensor.shape.size(), format_of(buffer.tensor).type);
  };
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

void BoundGraph::run() {
  translated(file_, [&] {
    session_.Run(Ort::RunOptions{nullptr}, binding_);
    return 0;
  });
}

const Buffer& BoundGraph::find(const std::map<std::string, Buffer>& buffers, const std::string& name) const {
  const auto found = buffers.find(name);
  if (found == buffers.end()) throw bundle_error(file_ + ": has no tensor " + name + "; export again");
  return found->second;
}

}  // namespace edgetok_impl
