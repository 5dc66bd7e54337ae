#include "engine_graph.hpp"

#include <algorithm>

#include "error.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

using Tensors = std::map<std::string, EngineTensor>;

bool has_prefix(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

// Rows of a cache, which engines of half precision hold in that.
bool may_be_half(const Tensor& tensor) {
  const std::string& name = tensor.name;
  if (tensor.dtype != "float32") return false;
  if (name == "kept_key" || name == "kept_value") return true;
  for (const char* prefix : {"past_key_", "past_value_", "present_key_", "present_value_"}) {
    if (!has_prefix(name, prefix)) continue;
    return name.find_first_not_of("0123456789", std::string(prefix).size()) == std::string::npos;
  }
  return false;
}

bool has_dtype(const EngineTensor& found, const Tensor& wanted) {
  if (found.dtype == wanted.dtype) return true;
  return may_be_half(wanted) && (found.dtype == "float16" || found.dtype == "bfloat16");
}

bool has_shape(const EngineTensor& found, const Tensor& wanted) {
  return std::equal(found.shape.begin(), found.shape.end(), wanted.shape.begin(), wanted.shape.end(),
                    [](std::int64_t own, std::int64_t asked) { return own == asked || own == -1; });
}

std::string describe(const EngineTensor& tensor) {
  return tensor.dtype + " " + format_list(tensor.shape) + (tensor.is_input ? ", an input" : ", an output") +
         (tensor.on_device ? "" : " on the host");
}

// What is wrong with a tensor of an engine; nothing if it is as it must be.
std::string find_problem(const Tensors& tensors, const Tensor& wanted, bool is_input) {
  const auto found = tensors.find(wanted.name);
  const std::string asked = wanted.name + ", " + wanted.dtype + " " + format_list(wanted.shape) +
                            (is_input ? ", an input" : ", an output");
  if (found == tensors.end()) return "has no tensor " + asked;
  const EngineTensor& its = found->second;
  if (its.is_input == is_input && its.on_device && has_dtype(its, wanted) && has_shape(its, wanted)) return "";
  return "has as " + asked + ": " + describe(its);
}

std::vector<std::string> find_problems(const Tensors& tensors, const Stage& stage, const EngineRung& rung) {
  std::vector<std::string> out;
  for (const auto& tensor : stage.inputs) out.push_back(find_problem(tensors, tensor, true));
  for (const auto& tensor : stage.outputs) out.push_back(find_problem(tensors, tensor, false));
  for (const auto& constant : rung.constants) out.push_back(find_problem(tensors, constant.tensor, true));
  if (tensors.size() != out.size()) {
    out.push_back("has " + std::to_string(tensors.size()) + " tensors instead of " + std::to_string(out.size()));
  }
  out.erase(std::remove(out.begin(), out.end(), ""), out.end());
  return out;
}

Tensors list_tensors(const Engine& engine) {
  Tensors out;
  for (auto& tensor : engine.tensors()) out[tensor.name] = tensor;
  return out;
}

}  // namespace

EngineGraph::EngineGraph(const Stage& stage, Engine& engine, Gpu& gpu, DeviceMemory& memory, const EngineRung& rung)
    // Short and frequent: launching its kernels one by one costs as much as they do.
    : Graph(stage.file), gpu_(gpu), way_out_(rung.way_out), may_record_(stage.stage == "decode") {
  const Tensors tensors = list_tensors(engine);
  const auto problems = find_problems(tensors, stage, rung);
  if (!problems.empty()) throw incompatible(file_ + ": its engine " + problems[0] + "; " + way_out_ + " --again");
  context_ = engine.make_context();
  if (context_ == nullptr) {
    throw Error(Code::resources, file_ + ": the GPU's memory ran out at an execution context; load fewer rungs, or " +
                                     "end other programs");
  }
  if (rung.own_profile) {
    const bool found = rung.index < engine.profiles() && context_->use_profile(rung.index);
    require(found, "optimization profile " + std::to_string(rung.index));
  }
  hold(stage, tensors, memory);
  for (const auto& [name, dtype, shape] : stage.inputs) {
    require(context_->set_shape(name, shape), "the shape of " + name);
  }
  for (const auto& constant : rung.constants) place_constant(constant, rung);
  find_twins(engine);
}

EngineGraph::~EngineGraph() {
  try {
    gpu_.wait();  // nothing may be freed that still runs
  } catch (...) {
  }
}

void EngineGraph::require(bool done, const std::string& what) const {
  if (done) return;
  throw incompatible(file_ + ": TensorRT refused " + what + "; " + way_out_ + " --again, and see `edgetok doctor`");
}

void EngineGraph::hold(const Stage& stage, const Tensors& tensors, DeviceMemory& memory) {
  const auto held = [&](Tensor tensor) {
    tensor.dtype = tensors.at(tensor.name).dtype;
    return memory.buffer(tensor);
  };
  for (const auto& tensor : stage.inputs) inputs_[tensor.name] = held(tensor);
  for (const auto& tensor : stage.outputs) outputs_[tensor.name] = held(tensor);
}

void EngineGraph::place_constant(const Constant& constant, const EngineRung& rung) {
  const auto bytes = static_cast<std::size_t>(bytes_of(constant.tensor));
  constants_.push_back(gpu_.allocate(bytes));
  gpu_.upload(constants_.back().get(), rung.values.data() + constant.offset, bytes);
  const std::string& name = constant.tensor.name;
  require(context_->set_shape(name, constant.tensor.shape), "the shape of " + name);
  require(context_->set_address(name, constants_.back().get()), "a place of " + name);
}

void EngineGraph::find_twins(const Engine& engine) {
  for (const auto& [name, buffer] : outputs_) {
    const std::string before = place_of(name);
    if (before == name || !reads(before) || engine.aliased_input(name) == before) continue;
    device_place(buffer).part_ways();
    twins_[name] = buffer;
  }
}

EngineGraph::Places EngineGraph::places() const {
  Places out;
  for (const auto& [name, buffer] : twins_) out.push_back(device_place(buffer).read());
  return out;
}

// Tells the context where its tensors lie, which other graphs may have changed.
void EngineGraph::bind() {
  const auto set = [&](const std::string& name, void* address) {
    require(context_->set_address(name, address), "a place of " + name);
  };
  for (const auto& [name, buffer] : inputs_) set(name, device_place(buffer).read());
  for (const auto& [name, buffer] : outputs_) {
    const DevicePlace& place = device_place(buffer);
    set(name, twins_.count(name) != 0 ? place.written() : place.read());
  }
}

void EngineGraph::compute() { require(context_->enqueue(), "the call"); }

void EngineGraph::run() {
  const Places here = places();
  auto recorded = recorded_.find(here);
  if (recorded == recorded_.end()) bind();
  // From the second run on: the first one may load kernels, which cannot be recorded.
  if (recorded == recorded_.end() && may_record_ && runs_ > 0 && context_->may_be_recorded()) {
    recorded = recorded_.emplace(here, gpu_.record([this] { compute(); })).first;
  }
  if (recorded == recorded_.end()) {
    compute();
  } else {
    gpu_.launch(recorded->second.get());
  }
  ++runs_;
  for (const auto& [name, buffer] : outputs_) device_place(buffer).forget_host();
  for (const auto& [name, buffer] : twins_) device_place(buffer).flip();
}

}  // namespace edgetok_impl
