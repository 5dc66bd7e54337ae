#include "bundle/admission.hpp"


#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

#include "bundle/tensors.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

using onnx::AttributeProto;
using onnx::ModelProto;
using onnx::NodeProto;
using onnx::TensorProto;
using Found = std::vector<std::string>;
using Constants = std::map<std::string, std::vector<std::int64_t>>;

constexpr std::size_t kShown = 8;
constexpr std::size_t kSizeOperandBytes = 1024;  // a shape has at most 8 dimensions

void append(Found& out, Found more) {
  for (auto& problem : more) {
    if (out.size() < kShown) out.push_back(std::move(problem));
  }
}

std::string dtype_of(int type) {
  switch (type) {
    case TensorProto::FLOAT: return "float32";
    case TensorProto::FLOAT16: return "float16";
    case TensorProto::INT8: return "int8";
    case TensorProto::UINT8: return "uint8";
    case TensorProto::INT32: return "int32";
    case TensorProto::INT64: return "int64";
    case TensorProto::BOOL: return "bool";
    default: return "type " + std::to_string(type);
  }
}

bool parse(const std::string& data, ModelProto& model, std::string& problem) {
  if (data.size() > limits::GRAPH_BYTES) {
    problem = std::to_string(data.size()) + " bytes, more than the limit of " +
              std::to_string(limits::GRAPH_BYTES);
  } else if (data.size() >= 8 && data.compare(4, 4, "ORTM") == 0) {
    problem = "bytes of onnxruntime's own format";  // it looks here first
  } else if (!model.ParsePartialFromString(data)) {  // at most 100 levels deep
    problem = "is no ONNX protobuf, or nested too deep";
  }
  return problem.empty();
}

// Another reader may know a field that this one skips, so nothing may be skipped.
bool is_fully_understood(ModelProto& model) {
  const auto bytes = model.ByteSizeLong();
  model.DiscardUnknownFields();
  return model.ByteSizeLong() == bytes;
}

bool is_domain(const std::string& domain) {
  return std::any_of(std::begin(kAllowed), std::end(kAllowed),
                     [&](const Operator& o) { return domain == o.domain; });
}

Found opset_problems(const ModelProto& model) {
  std::map<std::string, int> domains;
  for (const auto& opset : model.opset_import()) {
    ++domains[opset.domain() == "ai.onnx" ? "" : opset.domain()];
  }
  Found out;
  for (const auto& [domain, count] : domains) {
    if (!is_domain(domain)) {
      out.push_back("imports operators of domain `" + shorten(domain) + "`");
    } else if (count > 1) {
      out.push_back("imports " + std::to_string(count) + " versions of domain `" +
                    (domain.empty() ? "ai.onnx" : domain) + "`");
    }
  }
  if (domains.count("") == 0) out.push_back("imports no version of the standard operators");
  return out;
}

// What makes looking at single nodes and tensors pointless.
Found model_problems(ModelProto& model) {
  const auto& graph = model.graph();
  const std::string most = ", more than " + std::to_string(limits::GRAPH_NODES);
  Found out;
  if (graph.node_size() > limits::GRAPH_NODES) out.push_back(std::to_string(graph.node_size()) + " nodes" + most);
  if (graph.initializer_size() > limits::GRAPH_NODES) {
    out.push_back(std::to_string(graph.initializer_size()) + " tensors" + most);
  }
  if (model.functions_size() != 0) out.push_back("has local functions; inline them");
  if (model.training_info_size() != 0) out.push_back("has training information");
  if (graph.sparse_initializer_size() != 0) out.push_back("has sparse tensors; store them dense");
  for (const auto& entry : model.metadata_props()) {
    if (entry.key() == "ort_config") out.push_back("carries session options in its metadata");
  }
  append(out, opset_problems(model));
  if (!is_fully_understood(model)) {
    out.push_back("has fields that this reader does not know, so that they cannot be checked");
  }
  return out;
}

// Dtype and static shape of a value; on a problem, that.
std::string describe(const onnx::ValueInfoProto& value, std::string& dtype, Shape& shape) {
  if (value.type().value_case() != onnx::TypeProto::kTensorType) return "is no tensor";
  const auto& kind = value.type().tensor_type();
  if (!kind.has_shape()) return "has no static shape";
  for (const auto& dim : kind.shape().dim()) {
    if (dim.value_case() != onnx::TensorShapeProto_Dimension::kDimValue) return "has no static shape";
    shape.push_back(dim.dim_value());
  }
  const bool negative = std::any_of(shape.begin(), shape.end(), [](auto d) { return d < 0; });
  if (shape.size() > limits::GRAPH_TENSOR_RANK || negative || is_huge(shape)) {
    return "has shape " + shorten(format_list(shape)) + ", beyond the limits";
  }
  dtype = dtype_of(kind.elem_type());
  return {};
}

// As the manifest's tensors are written in messages: ('float32', (1, 3)).
std::string show(const std::string& dtype, const Shape& shape) {
  std::string inner = format_list(shape);
  inner = inner.substr(1, inner.size() - 2) + (shape.size() == 1 ? "," : "");
  return "('" + dtype + "', (" + inner + "))";
}

template <class Values>
Found interface_problems(const char* side, const Values& values, const std::vector<Tensor>& tensors) {
  std::map<std::string, const Tensor*> expected;
  std::map<std::string, int> counts;
  for (const auto& tensor : tensors) expected[tensor.name] = &tensor;
  for (const auto& value : values) ++counts[value.name()];
  Found out;
  for (const auto& [name, tensor] : expected) {
    if (counts.count(name) == 0) out.push_back(std::string(side) + " " + name + " of the manifest is missing");
  }
  for (const auto& value : values) {
    const std::string what = std::string(side) + " " + shorten(value.name());
    std::string dtype;
    Shape shape;
    const std::string problem = describe(value, dtype, shape);
    const auto wanted = expected.find(value.name());
    if (!problem.empty()) {
      out.push_back(what + ": " + problem);
    } else if (counts[value.name()] > 1) {
      out.push_back(what + " occurs " + std::to_string(counts[value.name()]) + " times");
    } else if (wanted == expected.end()) {
      out.push_back(what + " is not in the manifest");
    } else if (wanted->second->dtype != dtype || wanted->second->shape != shape) {
      out.push_back(what + " is " + show(dtype, shape) + ", but the manifest says " +
                    show(wanted->second->dtype, wanted->second->shape));
    }
  }
  return out;
}

// Readers differ in which of two definitions wins, so there is only ever one.
Found name_problems(const onnx::GraphProto& graph) {
  std::map<std::string, int> counts;
  for (const auto& tensor : graph.initializer()) ++counts[tensor.name()];
  for (const auto& value : graph.input()) ++counts[value.name()];
  for (const auto& node : graph.node()) {
    for (const auto& output : node.output()) {
      if (!output.empty()) ++counts[output];
    }
  }
  Found out;
  for (const auto& [name, count] : counts) {
    if (out.size() >= kShown) break;
    if (find_invalid_utf8(name) != std::string::npos) out.push_back("name " + shorten(name) + " is not UTF-8");
    if (count > 1) out.push_back("`" + shorten(name) + "` is defined " + std::to_string(count) + " times");
  }
  return out;
}

std::vector<const TensorProto*> list_tensors(const onnx::GraphProto& graph) {
  std::vector<const TensorProto*> out;
  for (const auto& tensor : graph.initializer()) out.push_back(&tensor);
  for (const auto& node : graph.node()) {
    for (const auto& attribute : node.attribute()) {
      if (attribute.has_t()) out.push_back(&attribute.t());
      for (const auto& tensor : attribute.tensors()) out.push_back(&tensor);
    }
  }
  return out;
}

template <class T>
void read_raw(const std::string& raw, std::vector<double>& out) {
  for (std::size_t at = 0; at + sizeof(T) <= raw.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, raw.data() + at, sizeof value);
    out.push_back(static_cast<double>(value));
  }
}

// The numbers of a small inline tensor, rounded up; none of types that no size has.
std::optional<std::vector<std::int64_t>> values_of(const TensorProto& t) {
  if (t.data_location() == TensorProto::EXTERNAL || t.ByteSizeLong() > kSizeOperandBytes) return std::nullopt;
  std::vector<double> found;
  const bool raw = t.has_raw_data();
  std::vector<std::int64_t> exact;
  switch (t.data_type()) {
    case TensorProto::INT64: {
      if (!raw) return std::vector<std::int64_t>(t.int64_data().begin(), t.int64_data().end());
      for (std::size_t at = 0; at + 8 <= t.raw_data().size(); at += 8) {
        std::int64_t value;
        std::memcpy(&value, t.raw_data().data() + at, sizeof value);
        exact.push_back(value);
      }
      return exact;
    }
    case TensorProto::INT32:
      if (raw) read_raw<std::int32_t>(t.raw_data(), found);
      if (!raw) found.assign(t.int32_data().begin(), t.int32_data().end());
      break;
    case TensorProto::FLOAT:
      if (raw) read_raw<float>(t.raw_data(), found);
      if (!raw) found.assign(t.float_data().begin(), t.float_data().end());
      break;
    case TensorProto::DOUBLE:
      if (raw) read_raw<double>(t.raw_data(), found);
      if (!raw) found.assign(t.double_data().begin(), t.double_data().end());
      break;
    default: return std::nullopt;
  }
  for (const double value : found) {
    if (!std::isfinite(value)) return std::nullopt;
    const double up = std::ceil(value);
    const bool fits = std::abs(up) < 9e18;
    exact.push_back(fits ? static_cast<std::int64_t>(up) : std::numeric_limits<std::int64_t>::max());
  }
  return exact;
}

std::optional<std::vector<std::int64_t>> values_of(const AttributeProto& a) {
  if (a.name() == "value") return values_of(a.t());
  if (a.name() == "value_int") return std::vector<std::int64_t>{a.i()};
  if (a.name() == "value_ints") return std::vector<std::int64_t>(a.ints().begin(), a.ints().end());
  return std::nullopt;
}

// Values of the small constants that may say how large something is.
Constants find_constants(const onnx::GraphProto& graph) {
  Constants out;
  for (const auto& tensor : graph.initializer()) {
    if (const auto values = values_of(tensor)) out[tensor.name()] = *values;
  }
  for (const auto& node : graph.node()) {
    if (node.op_type() != "Constant" || node.output_size() != 1 || node.attribute_size() != 1) continue;
    if (const auto values = values_of(node.attribute(0))) out[node.output(0)] = *values;
  }
  return out;
}

// Looks at the fields as well: `type` may lie about which one is set.
const char* refused_kind(const AttributeProto& a) {
  if (!a.ref_attr_name().empty()) return "a reference to a function's attribute";
  if (a.has_g() || a.graphs_size() != 0) return "a sub-graph";
  if (a.has_sparse_tensor() || a.sparse_tensors_size() != 0) return "a sparse tensor";
  switch (a.type()) {
    case AttributeProto::GRAPH: return "a sub-graph";
    case AttributeProto::GRAPHS: return "sub-graphs";
    case AttributeProto::SPARSE_TENSOR: return "a sparse tensor";
    case AttributeProto::SPARSE_TENSORS: return "sparse tensors";
    case AttributeProto::TYPE_PROTO: return "a type";
    case AttributeProto::TYPE_PROTOS: return "types";
    default: return nullptr;
  }
}

bool is_allowed(const NodeProto& node) {
  const std::string domain = node.domain() == "ai.onnx" ? "" : node.domain();
  return std::any_of(std::begin(kAllowed), std::end(kAllowed), [&](const Operator& o) {
    return domain == o.domain && node.op_type() == o.name;
  });
}

Found node_problems(const NodeProto& node, const Constants& constants) {
  const std::string name = "node " + (node.name().empty() ? "(unnamed)" : shorten(node.name()));
  Found out;
  if (!is_allowed(node)) {
    const std::string domain = node.domain().empty() ? "ai.onnx" : node.domain();
    out.push_back(name + ": operator `" + shorten(domain + "." + node.op_type()) + "` is not allowed");
  }
  for (const auto& attribute : node.attribute()) {
    if (const char* kind = refused_kind(attribute)) {
      out.push_back(name + ": attribute " + shorten(attribute.name()) + " holds " + kind);
    }
  }
  for (const auto& sized : kSizedBy) {
    if (node.op_type() != sized.name || sized.operand >= node.input_size()) continue;
    const std::string& operand = node.input(sized.operand);
    if (operand.empty()) continue;
    const auto values = constants.find(operand);
    if (values == constants.end()) {
      out.push_back(name + ": " + node.op_type() + " takes its size from `" + shorten(operand) +
                    "`, no constant");
    } else if (is_huge(values->second)) {
      out.push_back(name + ": " + node.op_type() + " makes more than " +
                    std::to_string(limits::GRAPH_TENSOR_ELEMENTS) + " elements");
    }
  }
  return out;
}

// Cheap checks come first and end the search, so that a bomb costs no more than parsing.
Found find_problems(const std::string& data, const Stage& stage, const Files& files) {
  ModelProto model;
  std::string problem;
  if (!parse(data, model, problem)) return {problem};
  Found out;
  append(out, model_problems(model));
  if (!out.empty()) return out;
  const auto& graph = model.graph();
  append(out, interface_problems("input", graph.input(), stage.inputs));
  append(out, interface_problems("output", graph.output(), stage.outputs));
  append(out, name_problems(graph));
  for (const auto& value : graph.value_info()) {
    std::string dtype;
    Shape shape;
    if (out.size() >= kShown) return out;
    const std::string found = describe(value, dtype, shape);
    if (!found.empty()) append(out, {"value " + shorten(value.name()) + ": " + found});
  }
  std::vector<const TensorProto*> external;
  for (const auto* tensor : list_tensors(graph)) {
    append(out, tensor_problems(*tensor, files));
    if (tensor->data_location() == TensorProto::EXTERNAL) external.push_back(tensor);
  }
  append(out, overlap_problems(external));
  const Constants constants = find_constants(graph);
  for (const auto& node : graph.node()) {
    if (out.size() >= kShown) return out;
    append(out, node_problems(node, constants));
  }
  return out;
}

}  // namespace

void admit_graph(const std::string& data, const Stage& stage, const Files& files) {
  const Found found = find_problems(data, stage, files);
  if (!found.empty()) {
    throw bundle_error(stage.file + ": graph not admitted: " + join(found, "; "));
  }
}

}  // namespace edgetok_impl
