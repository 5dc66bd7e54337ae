// Where the bytes of a graph's tensors lie: inline and small, or inside a listed file.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "onnx-ml.pb.h"

namespace edgetok_impl {

using Files = std::map<std::string, File>;

// Bytes of a listed file.
struct Extent {
  std::string location;
  std::uint64_t offset = 0, length = 0;
};

// Where an admitted tensor lies outside its graph.
Extent extent_of(const onnx::TensorProto& tensor);

// Why a tensor is not admitted; nothing if it is.
std::vector<std::string> tensor_problems(const onnx::TensorProto& tensor, const Files& files);

// Tensors may share an extent (tied weights), but never a part of one.
std::vector<std::string> overlap_problems(const std::vector<const onnx::TensorProto*>& tensors);

// Whether the product of these sizes, each at least 1, is beyond the limit.
bool is_huge(const std::vector<std::int64_t>& factors);

}  // namespace edgetok_impl
