#include "bundle/tensors.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>

#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

using onnx::TensorProto;
using Found = std::vector<std::string>;

constexpr std::size_t kMaxDigits = 19;  // of 2^63

bool lies_before(const Extent& a, const Extent& b) {
  return std::tie(a.location, a.offset, a.length) < std::tie(b.location, b.offset, b.length);
}

// Types whose size in bytes is known; strings, complex numbers and new types are not among them.
std::optional<std::int64_t> bits_of(int type) {
  switch (type) {
    case TensorProto::FLOAT:
    case TensorProto::INT32:
    case TensorProto::UINT32: return 32;
    case TensorProto::DOUBLE:
    case TensorProto::INT64:
    case TensorProto::UINT64: return 64;
    case TensorProto::FLOAT16:
    case TensorProto::BFLOAT16:
    case TensorProto::INT16:
    case TensorProto::UINT16: return 16;
    case TensorProto::FLOAT8E4M3FN:
    case TensorProto::FLOAT8E5M2:
    case TensorProto::BOOL:
    case TensorProto::INT8:
    case TensorProto::UINT8: return 8;
    case TensorProto::INT4:
    case TensorProto::UINT4: return 4;
    default: return std::nullopt;
  }
}

// Bytes that type and shape need; none if either is beyond the format.
std::optional<std::int64_t> expected_bytes(const TensorProto& tensor) {
  const auto bits = bits_of(tensor.data_type());
  if (!bits || tensor.dims_size() > limits::GRAPH_TENSOR_RANK) return std::nullopt;
  std::int64_t elements = 1;
  bool empty = false;
  for (const auto dim : tensor.dims()) {
    if (dim < 0) return std::nullopt;
    empty = empty || dim == 0;
  }
  if (empty) return 0;
  for (const auto dim : tensor.dims()) {
    if (elements > limits::GRAPH_TENSOR_ELEMENTS / dim) return std::nullopt;
    elements *= dim;
  }
  return (elements * *bits + 7) / 8;
}

std::optional<std::uint64_t> number(const std::string& text) {
  const bool digits = !text.empty() && text.size() <= kMaxDigits &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  return digits ? std::optional<std::uint64_t>(std::stoull(text)) : std::nullopt;
}

// Where an external tensor says it lies, or what is wrong with how it says so.
std::optional<Extent> extent(const TensorProto& tensor, std::string& problem) {
  std::map<std::string, std::string> entries;
  std::vector<std::string> keys;
  for (const auto& entry : tensor.external_data()) {
    entries[entry.key()] = entry.value();
    if (keys.size() < 8) keys.push_back(entry.key());
  }
  const bool known = entries.count("location") + entries.count("offset") + entries.count("length") == 3;
  if (!known || entries.size() != 3 || tensor.external_data_size() != 3) {
    problem = "external data has keys [" + shorten(join(keys, ", ")) +
              "], not location, offset and length once";
    return std::nullopt;
  }
  for (const auto& [key, value] : entries) {
    if (find_invalid_utf8(value) == std::string::npos) continue;
    problem = "external data is described by text that is not UTF-8";
    return std::nullopt;
  }
  const auto offset = number(entries["offset"]), length = number(entries["length"]);
  if (!offset || !length) {
    problem = "offset and length " + shorten(entries["offset"] + ", " + entries["length"]) +
              " are no whole numbers below 2^63";
    return std::nullopt;
  }
  return Extent{entries["location"], *offset, *length};
}

// An upper bound of what the inline fields decode to.
std::int64_t inline_bytes(const TensorProto& t) {
  const std::int64_t typed = t.int32_data_size() + std::int64_t{t.float_data_size()};
  const std::int64_t wide = t.int64_data_size() + std::int64_t{t.uint64_data_size()} + t.double_data_size();
  std::int64_t texts = 0;
  for (const auto& text : t.string_data()) texts += static_cast<std::int64_t>(text.size());
  return static_cast<std::int64_t>(t.raw_data().size()) + 4 * typed + 8 * wide + texts;
}

Found external_problems(const TensorProto& tensor, std::int64_t expected, const Files& files) {
  Found out;
  std::string problem;
  const auto place = extent(tensor, problem);
  if (!place) return {problem};
  if (inline_bytes(tensor) != 0) out.push_back("has both inline and external data");
  const auto file = files.find(place->location);
  if (file == files.end()) {  // keys of `files` are safe paths, so a location among them is one
    out.push_back("external data in `" + shorten(place->location) + "`, which the manifest does not list");
    return out;
  }
  const std::string length = std::to_string(place->length), offset = std::to_string(place->offset);
  if (place->length != static_cast<std::uint64_t>(expected)) {
    out.push_back(length + " bytes of external data, but type and shape need " + std::to_string(expected));
  }
  if (place->offset % limits::WEIGHTS_ALIGNMENT_BYTES != 0) {
    out.push_back("offset " + offset + " is no multiple of " +
                  std::to_string(limits::WEIGHTS_ALIGNMENT_BYTES));
  }
  const auto size = static_cast<std::uint64_t>(file->second.bytes);
  if (place->length > size || place->offset > size - place->length) {
    out.push_back("bytes " + offset + " to " + std::to_string(place->offset + place->length) +
                  " lie outside " + place->location + " of " + std::to_string(size) + " bytes");
  }
  return out;
}

Found inline_problems(const TensorProto& tensor, std::int64_t expected) {
  Found out;
  if (tensor.external_data_size() != 0) out.push_back("names external data without being external");
  if (const auto bytes = inline_bytes(tensor); bytes > limits::GRAPH_INLINE_TENSOR_BYTES) {
    out.push_back(std::to_string(bytes) + " bytes inline; more than " +
                  std::to_string(limits::GRAPH_INLINE_TENSOR_BYTES) + " belong into the weights file");
  }
  const auto raw = tensor.raw_data().size();
  if (tensor.has_raw_data() && raw != static_cast<std::uint64_t>(expected)) {
    out.push_back(std::to_string(raw) + " raw bytes, but type and shape need " + std::to_string(expected));
  }
  return out;
}

Found placed_problems(const TensorProto& tensor, const Files& files) {
  const auto expected = expected_bytes(tensor);
  if (!expected) {
    std::vector<std::int64_t> shape;
    for (int i = 0; i < std::min<int>(tensor.dims_size(), limits::GRAPH_TENSOR_RANK + 1); ++i) {
      shape.push_back(tensor.dims(i));
    }
    return {"type " + std::to_string(tensor.data_type()) + " with shape " + shorten(format_list(shape)) +
            " is beyond the limits"};
  }
  if (tensor.has_segment()) return {"is split into segments"};
  const bool outside = tensor.data_location() == TensorProto::EXTERNAL;
  return outside ? external_problems(tensor, *expected, files) : inline_problems(tensor, *expected);
}

}  // namespace

Extent extent_of(const TensorProto& tensor) {
  std::string problem;
  const auto found = extent(tensor, problem);
  if (!found) throw bundle_error("tensor " + shorten(tensor.name()) + ": " + problem);
  return *found;
}

Found tensor_problems(const TensorProto& tensor, const Files& files) {
  const std::string name = tensor.name().empty() ? "(unnamed)" : shorten(tensor.name());
  Found out = placed_problems(tensor, files);
  for (auto& problem : out) problem = "tensor " + name + ": " + problem;
  return out;
}

Found overlap_problems(const std::vector<const TensorProto*>& tensors) {
  std::set<Extent, decltype(&lies_before)> distinct(&lies_before);
  for (const auto* tensor : tensors) {
    std::string problem;
    const auto place = extent(*tensor, problem);
    if (place && place->length > 0) distinct.insert(*place);
  }
  Found out;
  const Extent* low = nullptr;
  for (const auto& high : distinct) {
    if (low != nullptr && low->location == high.location && low->offset + low->length > high.offset) {
      out.push_back(high.location + ": extents at " + std::to_string(low->offset) + " and " +
                    std::to_string(high.offset) + " overlap");
    }
    low = &high;
  }
  return out;
}

bool is_huge(const std::vector<std::int64_t>& factors) {
  double product = 1;  // exact up to 2^53, far above the limit
  for (const auto factor : factors) {
    product *= std::max(1.0, std::abs(static_cast<double>(factor)));
    if (product > static_cast<double>(limits::GRAPH_TENSOR_ELEMENTS)) return true;
  }
  return false;
}

}  // namespace edgetok_impl
