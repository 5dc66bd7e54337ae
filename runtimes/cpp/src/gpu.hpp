// Memory of a GPU, and a host's view of tensors that lie there.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "buffer.hpp"
#include "toolkit.hpp"

namespace edgetok_impl {

// One GPU with one stream, on which all work of a runtime happens in order. Every call throws
// Error(resources) where memory ran out, Error(incompatible) for any other failure.
class Gpu {
 public:
  explicit Gpu(Cuda& cuda);
  const GpuName& name() const { return name_; }

  std::shared_ptr<void> allocate(std::size_t bytes);  // which are 0
  void upload(void* target, const void* source, std::size_t bytes);
  void download(void* target, const void* source, std::size_t bytes);  // behind all work begun before
  void wait();
  // What `work` puts on the stream, to be launched again as one.
  std::shared_ptr<void> record(const std::function<void()>& work);
  void launch(void* recorded);

 private:
  void require(int status, const std::string& doing) const;

  Cuda& cuda_;
  GpuName name_;
};

// The memory of all tensors of one name. A graph that may not write where it reads has them part
// ways: from then on there are two places, and each call reads what the last one wrote.
class DevicePlace : public Mirror {
 public:
  DevicePlace(Gpu& gpu, std::int64_t bytes);

  void push(std::size_t bytes) override;
  void pull(std::size_t bytes) override;
  std::shared_ptr<void> host() const { return host_; }
  void* read() const { return read_.get(); }                                // by graphs
  void* written() const { return other_ == nullptr ? read_.get() : other_.get(); }
  void part_ways();
  void flip();
  void forget_host() { held_ = 0; }  // a graph wrote
  std::int64_t bytes() const { return bytes_; }
  std::int64_t device_bytes() const { return other_ == nullptr ? bytes_ : 2 * bytes_; }

 private:
  Gpu& gpu_;
  std::int64_t bytes_;
  std::shared_ptr<void> host_, read_, other_;
  std::size_t held_;  // first bytes that the host has as the device does
};

// All buffers of a runtime on the GPU; see `Backend`.
class DeviceMemory {
 public:
  explicit DeviceMemory(Gpu& gpu) : gpu_(gpu) {}
  Buffer buffer(const Tensor& tensor);
  std::int64_t cache_bytes() const;
  std::int64_t other_bytes() const;

 private:
  Gpu& gpu_;
  std::map<std::pair<std::string, std::string>, std::shared_ptr<DevicePlace>> places_;  // by name and dtype
};

// The place of a buffer of `DeviceMemory`.
DevicePlace& device_place(const Buffer& buffer);

}  // namespace edgetok_impl
