#include "backends/weights.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <set>

#include "bundle/files.hpp"
#include "bundle/tensors.hpp"
#include "error.hpp"

namespace edgetok_impl {

Weights::~Weights() {
  lent_.clear();
  for (const auto& [path, map] : maps_) munmap(map.first, map.bytes);
}

const Weights::Map& Weights::map(const std::string& path) {
  const auto found = maps_.find(path);
  if (found != maps_.end()) return found->second;
  const Descriptor file = bundle_.open(path);
  const auto bytes = static_cast<std::size_t>(identify(file).bytes);
  void* first = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (first == MAP_FAILED) {
    throw Error(Code::resources, path + ": cannot be mapped: " + describe_error(errno) + "; free memory, or load fewer rungs");
  }
  return maps_[path] = {first, bytes};
}

namespace {

// Operators whose kernels pack a weight.
const std::set<std::string> kPacking = {"MatMul", "Gemm", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat",
                                        "DynamicQuantizeMatMul"};

// What such operators alone read. A session does not fold what it was lent, so lending more costs more
// than it saves.
std::set<std::string> list_packable(const onnx::GraphProto& graph) {
  std::set<std::string> packed, others;
  for (const auto& node : graph.node()) {
    const bool packs = kPacking.count(node.op_type()) != 0;
    for (const auto& name : node.input()) (packs ? packed : others).insert(name);
  }
  for (const auto& name : others) packed.erase(name);
  return packed;
}

}  // namespace

void Weights::lend(const std::string& graph, Ort::SessionOptions& options) {
  onnx::ModelProto model;
  if (!model.ParseFromString(graph)) throw bundle_error("a graph changed while it was read; open the bundle again");
  const auto info = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const auto packable = list_packable(model.graph());
  for (const auto& tensor : model.graph().initializer()) {
    if (tensor.data_location() != onnx::TensorProto::EXTERNAL || packable.count(tensor.name()) == 0) continue;
    const Extent place = extent_of(tensor);
    if (place.length == 0) continue;
    const Map& file = map(place.location);
    if (place.offset > file.bytes || place.length > file.bytes - place.offset) {
      throw bundle_error(place.location + ": shorter than its tensors; open the bundle again");
    }
    const std::vector<std::int64_t> shape(tensor.dims().begin(), tensor.dims().end());
    lent_.push_back(Ort::Value::CreateTensor(info, static_cast<char*>(file.first) + place.offset,
                                             static_cast<std::size_t>(place.length), shape.data(), shape.size(),
                                             static_cast<ONNXTensorElementDataType>(tensor.data_type())));
    options.AddInitializer(tensor.name().c_str(), lent_.back());
  }
}

void Weights::release_pages() const {
  for (const auto& [path, map] : maps_) madvise(map.first, map.bytes, MADV_DONTNEED);
}

}  // namespace edgetok_impl
