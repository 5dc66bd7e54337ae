// A tensor that graphs read and write, and that the runtime sees on the host.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "error.hpp"
#include "manifest.hpp"

namespace edgetok_impl {

// The same values in the memory of a device.
class Mirror {
 public:
  virtual ~Mirror() = default;
  virtual void push(std::size_t bytes) = 0;  // the first bytes, to the device
  virtual void pull(std::size_t bytes) = 0;  // and from it, if graphs wrote there since
};

// A tensor at a fixed address.
struct Buffer {
  Tensor tensor;
  std::shared_ptr<void> memory;  // on the host
  std::size_t bytes = 0;
  std::shared_ptr<Mirror> mirror;  // none where graphs run in the host's memory

  // The values as the last graph left them. Whoever changes them here must `push`.
  template <class T>
  T* as() const {
    if (mirror != nullptr) mirror->pull(bytes);
    return static_cast<T*>(memory.get());
  }
  void push() const {
    if (mirror != nullptr) mirror->push(bytes);
  }
  template <class T>
  std::size_t count() const {
    return bytes / sizeof(T);
  }
  // Refuses what does not fill it, so that no shape that nobody foresaw is written beyond.
  template <class T>
  void write(const std::vector<T>& values) const {
    if (values.size() * sizeof(T) != bytes) {
      throw bundle_error("tensor " + tensor.name + " has another size than what is written to it");
    }
    std::memcpy(memory.get(), values.data(), bytes);
    push();
  }
};

std::int64_t bytes_of(const Tensor& tensor);

// The tensor whose memory this one has: present_ rows are written where past_ ones are read.
std::string place_of(const std::string& tensor);

// Whether a place holds rows or states of the KV cache, or such on their way into it.
bool is_cache(const std::string& place);

// Bytes on the host, all 0; what is never written costs no memory. Throws Error(resources).
std::shared_ptr<void> allocate_zeros(std::int64_t bytes);

}  // namespace edgetok_impl
