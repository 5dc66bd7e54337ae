#include "gpu.hpp"

#include <algorithm>

namespace edgetok_impl {

namespace {

constexpr int kOutOfMemory = 2;  // cudaErrorMemoryAllocation

}  // namespace

Gpu::Gpu(Cuda& cuda) : cuda_(cuda) { require(cuda_.start(name_), "use the first GPU"); }

void Gpu::require(int status, const std::string& doing) const {
  if (status == 0) return;
  if (status == kOutOfMemory) {
    throw Error(Code::resources, "the GPU's memory ran out (" + doing + "); end other programs, load fewer rungs, or " +
                                     "export with int4 weights and an int8 KV cache");
  }
  throw incompatible("CUDA could not " + doing + ": " + cuda_.explain(status) +
                     "; check the driver with `edgetok doctor`");
}

std::shared_ptr<void> Gpu::allocate(std::size_t bytes) {
  bytes = std::max<std::size_t>(1, bytes);
  void* address = nullptr;
  require(cuda_.allocate(bytes, &address), "allocate " + std::to_string(bytes) + " bytes");
  std::shared_ptr<void> made(address, [&cuda = cuda_](void* each) { cuda.release(each); });
  require(cuda_.clear(address, bytes), "clear memory");
  return made;
}

void Gpu::upload(void* target, const void* source, std::size_t bytes) {
  require(cuda_.upload(target, source, bytes), "copy to the GPU");
}

void Gpu::download(void* target, const void* source, std::size_t bytes) {
  require(cuda_.download(target, source, bytes), "copy from the GPU");
  wait();
}

void Gpu::wait() { require(cuda_.wait(), "finish its work"); }

std::shared_ptr<void> Gpu::record(const std::function<void()>& work) {
  require(cuda_.begin_recording(), "record work");
  void* made = nullptr;
  try {
    work();
  } catch (...) {
    if (cuda_.end_recording(&made) == 0) cuda_.forget(made);
    throw;
  }
  require(cuda_.end_recording(&made), "make a graph of work");
  return {made, [&cuda = cuda_](void* each) { cuda.forget(each); }};
}

void Gpu::launch(void* recorded) { require(cuda_.launch(recorded), "launch a graph"); }

DevicePlace::DevicePlace(Gpu& gpu, std::int64_t bytes)
    : gpu_(gpu),
      bytes_(bytes),
      host_(allocate_zeros(bytes)),
      read_(gpu.allocate(static_cast<std::size_t>(bytes))),
      held_(static_cast<std::size_t>(bytes)) {}

void DevicePlace::push(std::size_t bytes) {
  gpu_.upload(read_.get(), host_.get(), bytes);
  held_ = std::max(held_, bytes);
}

void DevicePlace::pull(std::size_t bytes) {
  if (held_ >= bytes) return;
  gpu_.download(host_.get(), read_.get(), bytes);
  held_ = bytes;
}

void DevicePlace::part_ways() {
  if (other_ == nullptr) other_ = gpu_.allocate(static_cast<std::size_t>(bytes_));
}

void DevicePlace::flip() {
  if (other_ != nullptr) std::swap(read_, other_);
}

Buffer DeviceMemory::buffer(const Tensor& tensor) {
  const auto bytes = bytes_of(tensor);
  auto& place = places_[{place_of(tensor.name), tensor.dtype}];
  if (place == nullptr || place->bytes() < bytes) place = std::make_shared<DevicePlace>(gpu_, bytes);
  return {tensor, place->host(), static_cast<std::size_t>(bytes), place};
}

std::int64_t DeviceMemory::cache_bytes() const {
  std::int64_t total = 0;
  for (const auto& [key, place] : places_) total += is_cache(key.first) ? place->device_bytes() : 0;
  return total;
}

std::int64_t DeviceMemory::other_bytes() const {
  std::int64_t total = -cache_bytes();
  for (const auto& [key, place] : places_) total += place->device_bytes();
  return total;
}

DevicePlace& device_place(const Buffer& buffer) { return static_cast<DevicePlace&>(*buffer.mirror); }

}  // namespace edgetok_impl
