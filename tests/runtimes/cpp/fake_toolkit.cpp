// The calls of toolkit.hpp over host memory, with ONNX Runtime behind them, so that answers are true;
// tests/runtimes/fake_tensorrt.py in C++, whose engines it opens. Addresses are those of real memory.
// What may go wrong on a real GPU goes wrong here on request, through the functions at the end.
#include <onnxruntime_cxx_api.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>

#include "edgetok/edgetok.h"
#include "error.hpp"
#include "onnx-ml.pb.h"
#include "toolkit.hpp"
#include "value.hpp"

namespace edgetok_impl {

namespace {

const char kMagic[] = "engine\n";
constexpr int kOutOfMemory = 2, kIllegalAddress = 700, kNoDevice = 100;
constexpr std::size_t kMost = std::size_t{1} << 30;

std::map<std::string, std::int64_t> faults;  // 0: nothing goes wrong
std::map<std::string, std::int64_t> counts;
std::string release = "10.3.0";

bool is_rtx() { return release.rfind("1.", 0) == 0; }

class HostGpu : public Cuda {
 public:
  ~HostGpu() override { counts["left"] = static_cast<std::int64_t>(memory_.size()); }

  int start(GpuName& found) override {
    if (faults["no_device"] != 0) return kNoDevice;
    const auto capability = faults["capability"] == 0 ? 87 : faults["capability"];
    found = {"Fake GPU", "sm" + std::to_string(capability), "12.6"};
    return 0;
  }

  int allocate(std::size_t bytes, void** address) override {
    if (++counts["allocated"] == faults["allocation"]) return kOutOfMemory;
    *address = std::malloc(bytes);
    std::memset(*address, 0xcd, bytes);
    memory_[static_cast<char*>(*address)] = bytes;
    return 0;
  }

  int clear(void* address, std::size_t bytes) override {
    if (!holds(address, bytes)) return kIllegalAddress;
    std::memset(address, 0, bytes);
    return 0;
  }

  int release(void* address) override {
    if (memory_.erase(static_cast<char*>(address)) == 0) return kIllegalAddress;
    std::free(address);
    return 0;
  }

  int upload(void* target, const void* source, std::size_t bytes) override {
    return copy(target, source, bytes, target);
  }
  int download(void* target, const void* source, std::size_t bytes) override {
    return copy(target, source, bytes, source);
  }
  int wait() override { return failed_ ? kIllegalAddress : 0; }

  int begin_recording() override {
    recording_ = std::make_unique<Work>();
    return 0;
  }
  int end_recording(void** work) override {
    ++counts["recorded"];
    *work = recording_.release();
    return 0;
  }
  int launch(void* work) override {
    ++counts["launched"];
    for (const auto& each : *static_cast<Work*>(work)) failed_ = !each() || failed_;
    return 0;
  }
  int forget(void* work) override {
    delete static_cast<Work*>(work);
    return 0;
  }
  std::string explain(int status) const override { return "fakeError " + std::to_string(status); }

  bool holds(const void* address, std::size_t bytes) const {
    auto after = memory_.upper_bound(static_cast<char*>(const_cast<void*>(address)));
    if (after == memory_.begin()) return false;
    --after;
    return static_cast<const char*>(address) + bytes <= after->first + after->second;
  }

  // Now, or when what is recorded is launched.
  bool put(std::function<bool()> work) {
    if (recording_ == nullptr) return work();
    recording_->push_back(std::move(work));
    return true;
  }

 private:
  using Work = std::vector<std::function<bool()>>;

  int copy(void* target, const void* source, std::size_t bytes, const void* on_device) {
    if (recording_ != nullptr || !holds(on_device, bytes)) return kIllegalAddress;
    counts["copied"] += static_cast<std::int64_t>(bytes);
    std::memcpy(target, source, bytes);
    return 0;
  }

  std::map<char*, std::size_t> memory_;
  std::unique_ptr<Work> recording_;
  bool failed_ = false;
};

struct Kind {
  ONNXTensorElementDataType type;
  const char* dtype;
  std::size_t bytes;
};

constexpr Kind kKinds[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float32", 4}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "float16", 2},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8", 1},     {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32", 4},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64", 8},   {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool", 1},
};

const Kind& kind_of(ONNXTensorElementDataType type) {
  for (const auto& kind : kKinds) {
    if (kind.type == type) return kind;
  }
  throw incompatible("the fake engine has a tensor of another type");
}

std::string from_hex(const std::string& text) {
  std::string out;
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    out.push_back(static_cast<char>(digit(text[i]) * 16 + digit(text[i + 1])));
  }
  return out;
}

// Never destroyed, as session.cpp's.
const Ort::Env& environment() {
  static const Ort::Env* const made = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "fake");
  return *made;
}

struct Opened {
  std::unique_ptr<Ort::Session> session;
  std::vector<EngineTensor> tensors;  // inputs first, each side in the graph's order
  std::map<std::string, Kind> kinds;
  std::map<std::string, std::string> aliases;
  List profiles;
};

std::shared_ptr<const Opened> open_graph(const Value& described) {
  auto out = std::make_shared<Opened>();
  const std::string graph = from_hex(described.at("graph").text()), path = described.at("path").text();
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  options.AddConfigEntry("session.model_external_initializers_file_folder_path",
                         path.substr(0, path.rfind('/')).c_str());
  out->session = std::make_unique<Ort::Session>(environment(), graph.data(), graph.size(), options);
  out->profiles = described.at("profiles").list();
  const auto add = [&](const std::string& name, const Ort::TypeInfo& type, bool is_input) {
    const auto info = type.GetTensorTypeAndShapeInfo();
    const Kind& kind = kind_of(info.GetElementType());
    out->kinds.emplace(name, kind);
    out->tensors.push_back({name, kind.dtype, info.GetShape(), is_input, true});
  };
  Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t i = 0; i < out->session->GetInputCount(); ++i) {
    add(out->session->GetInputNameAllocated(i, allocator).get(), out->session->GetInputTypeInfo(i), true);
  }
  for (std::size_t i = 0; i < out->session->GetOutputCount(); ++i) {
    add(out->session->GetOutputNameAllocated(i, allocator).get(), out->session->GetOutputTypeInfo(i), false);
  }
  onnx::ModelProto model;
  if (!model.ParseFromString(graph)) throw incompatible("the fake engine holds no graph");
  for (const auto& node : model.graph().node()) {
    const bool is_input = out->kinds.count(node.input_size() > 0 ? node.input(0) : "") != 0;
    if (node.op_type() == "TensorScatter" && is_input) out->aliases[node.output(0)] = node.input(0);
  }
  return out;
}

class HostContext : public EngineContext {
 public:
  HostContext(std::shared_ptr<const Opened> opened, HostGpu& gpu) : opened_(std::move(opened)), gpu_(gpu) {}

  bool use_profile(int index) override {
    profile_ = static_cast<std::size_t>(index);
    ++counts["profiles"];
    return faults["no_profile"] == 0;
  }

  bool set_shape(const std::string& name, const Shape& shape) override {
    if (faults["no_shape"] != 0 || opened_->kinds.count(name) == 0) return false;
    if (!opened_->profiles.empty()) {
      const List& range = opened_->profiles.at(profile_).at(name).list();
      for (std::size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] < range[0].list().at(i).integer() || shape[i] > range[2].list().at(i).integer()) return false;
      }
    }
    shapes_[name] = shape;
    return true;
  }

  bool set_address(const std::string& name, void* address) override {
    places_[name] = address;
    return faults["no_address"] == 0 && opened_->kinds.count(name) != 0;
  }

  bool may_be_recorded() override { return faults["no_recording"] == 0; }

  bool enqueue() override {
    if (faults["enqueue"] != 0 && ++counts["executed"] >= faults["enqueue"]) return false;
    return gpu_.put([this, places = places_] { return compute(places); });
  }

 private:
  using Places = std::map<std::string, void*>;

  bool compute(const Places& places) {
    const auto info = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> names, outputs;
    std::vector<Ort::Value> values;
    std::vector<std::vector<char>> copies;
    for (const auto& tensor : opened_->tensors) {
      if (!tensor.is_input) outputs.push_back(tensor.name.c_str());
      if (!tensor.is_input) continue;
      const Shape& shape = shapes_.at(tensor.name);
      const std::size_t bytes = size_of(tensor.name, shape);
      if (!gpu_.holds(places.at(tensor.name), bytes)) return false;
      const char* first = static_cast<char*>(places.at(tensor.name));
      copies.emplace_back(first, first + bytes);
      copies.back().reserve(1);
      names.push_back(tensor.name.c_str());
      values.push_back(Ort::Value::CreateTensor(info, copies.back().data(), bytes, shape.data(), shape.size(),
                                                opened_->kinds.at(tensor.name).type));
    }
    auto made = opened_->session->Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(),
                                      outputs.data(), outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!put(outputs[i], made[i], places)) return false;
    }
    return true;
  }

  bool put(const std::string& name, const Ort::Value& value, const Places& places) const {
    void* place = places.at(name);
    const auto alias = opened_->aliases.find(name);
    for (const auto& tensor : opened_->tensors) {  // a graph would write where it reads
      const bool same = tensor.is_input && places.at(tensor.name) == place;
      const bool may = alias != opened_->aliases.end() && alias->second == tensor.name;
      if (tensor.is_input && same != may && (same || may)) return false;
    }
    const std::size_t bytes = size_of(name, value.GetTensorTypeAndShapeInfo().GetShape());
    if (!gpu_.holds(place, bytes)) return false;
    std::memcpy(place, value.GetTensorRawData(), bytes);
    return true;
  }

  std::size_t size_of(const std::string& name, const Shape& shape) const {
    std::size_t bytes = opened_->kinds.at(name).bytes;
    for (const auto size : shape) bytes *= static_cast<std::size_t>(size);
    return bytes;
  }

  std::shared_ptr<const Opened> opened_;
  HostGpu& gpu_;
  std::size_t profile_ = 0;
  std::map<std::string, Shape> shapes_;
  Places places_;
};

class HostEngine : public Engine {
 public:
  HostEngine(std::shared_ptr<const Opened> opened, HostGpu& gpu) : opened_(std::move(opened)), gpu_(gpu) {}

  std::vector<EngineTensor> tensors() const override {
    auto out = opened_->tensors;
    if (faults["name"] != 0) out[0].name += "_other";
    if (faults["dtype"] != 0) out[0].dtype = out[0].dtype == "int8" ? "int32" : "int8";
    if (faults["shape"] != 0) out[0].shape.push_back(2);
    if (faults["side"] != 0) out[0].is_input = false;
    if (faults["on_host"] != 0) out[0].on_device = false;
    if (faults["further"] != 0) out.push_back({"further", "float32", {1}, true, true});
    return out;
  }

  int profiles() const override { return static_cast<int>(std::max<std::size_t>(1, opened_->profiles.size())); }

  std::string aliased_input(const std::string& output) const override {
    const auto found = opened_->aliases.find(output);
    return found == opened_->aliases.end() ? "" : found->second;
  }

  std::unique_ptr<EngineContext> make_context() override {
    ++counts["contexts"];
    if (faults["no_context"] != 0) return nullptr;
    return std::make_unique<HostContext>(opened_, gpu_);
  }

 private:
  std::shared_ptr<const Opened> opened_;
  HostGpu& gpu_;
};

class FakeToolkit : public Toolkit {
 public:
  Cuda& cuda() override { return gpu_; }
  std::string module() const override { return is_rtx() ? "tensorrt_rtx" : "tensorrt"; }
  std::string version() const override { return release; }

  std::unique_ptr<Engine> open(const std::string& bytes) override {
    ++counts["opened"];
    if (faults["refuses"] != 0 || bytes.rfind(kMagic, 0) != 0) return nullptr;
    const Value described = parse_strict(bytes.substr(sizeof kMagic - 1), "engine", kMost);
    return std::make_unique<HostEngine>(open_graph(described), gpu_);
  }

  std::string last_error() const override { return "the fake refuses it"; }
  void use_kernels(const std::string& kept) override { counts["kernels"] = kept == "kernels" ? 1 : -1; }
  std::string kernels() override { return is_rtx() ? "kernels" : ""; }

 private:
  HostGpu gpu_;
};

}  // namespace

std::unique_ptr<Toolkit> open_toolkit(const std::string& device) {
  if ((device == "rtx") != is_rtx()) throw incompatible("device " + device + " needs another TensorRT");
  return std::make_unique<FakeToolkit>();
}

}  // namespace edgetok_impl

extern "C" {

// A fault; 0 mends it. `allocation` and `enqueue` are counted from 1.
EDGETOK_API void edgetok_fake_set(const char* fault, int64_t value) { edgetok_impl::faults[fault] = value; }

// What was asked of the fake since it was reset.
EDGETOK_API int64_t edgetok_fake_count(const char* name) { return edgetok_impl::counts[name]; }

// A new process, as it were, of this release of TensorRT; one that begins with "1." is for RTX.
EDGETOK_API void edgetok_fake_reset(const char* version) {
  edgetok_impl::faults.clear();
  edgetok_impl::counts.clear();
  edgetok_impl::release = version;
}

}  // extern "C"
