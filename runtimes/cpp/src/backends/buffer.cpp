#include "backends/buffer.hpp"

#include <algorithm>
#include <cstdlib>

#include "bundle/buffers.hpp"

namespace edgetok_impl {

namespace {

struct Width {
  const char* dtype;
  std::int64_t bytes;
};

constexpr Width kWidths[] = {{"float32", 4}, {"float16", 2}, {"bfloat16", 2}, {"int8", 1},
                             {"uint8", 1},   {"int32", 4},   {"int64", 8},    {"bool", 1}};

std::int64_t width_of(const Tensor& tensor) {
  for (const auto& width : kWidths) {
    if (tensor.dtype == width.dtype) return width.bytes;
  }
  throw bundle_error("tensor " + tensor.name + " is of type " + tensor.dtype);
}

}  // namespace

std::int64_t bytes_of(const Tensor& tensor) {
  std::int64_t bytes = width_of(tensor);
  for (const auto size : tensor.shape) {  // beyond 2^33 only of graphs that are not admitted yet
    if (__builtin_mul_overflow(bytes, size, &bytes)) return INT64_MAX;
  }
  return bytes;
}

std::string place_of(const std::string& tensor) {
  return tensor.rfind("present_", 0) == 0 ? "past_" + tensor.substr(8) : tensor;
}

bool is_cache(const std::string& place) {
  return is_buffer(place) || place.rfind("kept_", 0) == 0 || place.rfind("flushed_", 0) == 0;
}

std::shared_ptr<void> allocate_zeros(std::int64_t bytes) {
  void* memory = std::calloc(1, static_cast<std::size_t>(std::max<std::int64_t>(1, bytes)));
  if (memory == nullptr) throw Error(Code::resources, "memory ran out; load fewer rungs");
  return {memory, std::free};
}

}  // namespace edgetok_impl
