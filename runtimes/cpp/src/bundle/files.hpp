// Names inside a bundle, and opening them without ever leaving it.
#pragma once

#include <cstdint>
#include <string>

namespace edgetok_impl {

// Throws Error(bundle) unless `text` is a plain relative path such as onnx/ort/tower.onnx.
void require_safe_path(const std::string& text);

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(other.value_) { other.value_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  int get() const { return value_; }

 private:
  int value_;
};

// Which file was checked, so that another one in its place is noticed.
struct Identity {
  std::uint64_t device = 0, inode = 0;
  std::int64_t bytes = 0, modified_ns = 0, changed_ns = 0;
  bool operator==(const Identity& other) const;
};

Descriptor open_root(const std::string& root);

// Opens a regular file with exactly one name below a directory, following no link of any kind.
Descriptor open_beneath(const Descriptor& root, const std::string& path);

bool exists_beneath(const Descriptor& root, const std::string& name);

Identity identify(const Descriptor& file);

// To the end, but never more than `limit_bytes`, even if the file grows meanwhile.
std::string read_up_to(const Descriptor& file, std::size_t limit_bytes, const std::string& what);

std::string hash_file(const Descriptor& file, const std::string& what);

// What an errno means, in English in every locale; safe in every thread.
std::string describe_error(int error);

}  // namespace edgetok_impl
