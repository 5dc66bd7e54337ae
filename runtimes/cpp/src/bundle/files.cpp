#include "bundle/files.hpp"

#include <fcntl.h>
#include <locale.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "bundle/hash.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

constexpr std::size_t kChunk = std::size_t{1} << 20;
constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
// O_NONBLOCK: opening a FIFO must not wait for a writer.
constexpr int kFile = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// No leading dot (hidden files, `..`), no trailing dot (Windows drops it), ASCII only.
bool is_component(const std::string& text) {
  const auto allowed = [](char c) { return is_word(c) || c == '.' || c == '-'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), allowed) && is_word(text.front()) &&
         text.back() != '.';
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == '/') {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

// Why an open failed, in a bundle's words.
std::string explain(const Descriptor& directory, const std::string& name, int error) {
  if (error == ENOENT) return "listed in the manifest but missing";
  struct stat status{};
  const bool known = fstatat(directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  if (known && S_ISLNK(status.st_mode)) {
    return "`" + name + "` is a symbolic link; a bundle holds files only, copy it with `cp -rL`";
  }
  return error == ENXIO ? "is no regular file" : describe_error(error);
}

Descriptor open_at(const Descriptor& directory, const std::string& name, int flags,
                   const std::string& path) {
  const int found = openat(directory.get(), name.c_str(), flags);
  if (found < 0) throw bundle_error(path + ": " + explain(directory, name, errno));
  return Descriptor(found);
}

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

template <class Take>
void read_chunks(const Descriptor& file, std::size_t most, const std::string& what, Take take) {
  std::vector<char> chunk(std::min(kChunk, most));
  while (most > 0) {
    const ssize_t got = read(file.get(), chunk.data(), std::min(chunk.size(), most));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw bundle_error(what + ": cannot be read: " + describe_error(errno));
    if (got == 0) return;
    take(chunk.data(), static_cast<std::size_t>(got));
    most -= static_cast<std::size_t>(got);
  }
}

}  // namespace

std::string describe_error(int error) {
  static locale_t const plain = newlocale(LC_ALL_MASK, "C", nullptr);
  return strerror_l(error, plain);
}

void require_safe_path(const std::string& text) {
  const auto components = split(text);
  if (text.size() > limits::PATH_CHARACTERS || components.size() > limits::PATH_COMPONENTS) {
    throw bundle_error("path `" + shorten(text) + "` is longer than " +
                       std::to_string(limits::PATH_CHARACTERS) + " characters or " +
                       std::to_string(limits::PATH_COMPONENTS) + " components");
  }
  if (!std::all_of(components.begin(), components.end(), is_component)) {
    throw bundle_error("path `" + shorten(text) +
                       "` is not a plain relative path; components may hold letters, digits, `.`, `_` "
                       "and `-`, and neither start nor end with a dot");
  }
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(value_, other.value_);
  return *this;
}

Descriptor::~Descriptor() {
  if (value_ >= 0) close(value_);
}

bool Identity::operator==(const Identity& o) const {
  return device == o.device && inode == o.inode && bytes == o.bytes && modified_ns == o.modified_ns &&
         changed_ns == o.changed_ns;
}

Descriptor open_root(const std::string& root) {
  const int found = open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (found >= 0) return Descriptor(found);
  const std::string shown = shorten(root, 300);
  if (errno == ENOENT) throw bundle_error(shown + ": no such directory; give the path of a bundle");
  if (errno == ENOTDIR) throw bundle_error(shown + ": not a directory; a bundle is one");
  throw bundle_error(shown + ": cannot be opened: " + describe_error(errno));
}

Descriptor open_beneath(const Descriptor& root, const std::string& path) {
  require_safe_path(path);
  auto components = split(path);
  const std::string name = components.back();
  components.pop_back();
  Descriptor directory(fcntl(root.get(), F_DUPFD_CLOEXEC, 0));
  for (const auto& parent : components) directory = open_at(directory, parent, kDirectory, path);
  Descriptor file = open_at(directory, name, kFile, path);
  struct stat status{};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw bundle_error(path + ": is no regular file");
  }
  if (status.st_nlink != 1) {
    throw bundle_error(path + ": has " + std::to_string(status.st_nlink) +
                       " names (hard links), so that it may belong to something outside the bundle; "
                       "copy the bundle with `cp -r`");
  }
  return file;
}

bool exists_beneath(const Descriptor& root, const std::string& name) {
  struct stat status{};
  return fstatat(root.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

Identity identify(const Descriptor& file) {
  struct stat s{};
  if (fstat(file.get(), &s) != 0) throw bundle_error(std::string("cannot be read: ") + describe_error(errno));
  return {s.st_dev, s.st_ino, s.st_size, nanoseconds(s.st_mtim), nanoseconds(s.st_ctim)};
}

std::string read_up_to(const Descriptor& file, std::size_t limit_bytes, const std::string& what) {
  std::string out;
  read_chunks(file, limit_bytes, what, [&](const char* data, std::size_t n) { out.append(data, n); });
  return out;
}

std::string hash_file(const Descriptor& file, const std::string& what) {
  Sha256 hash;
  read_chunks(file, SIZE_MAX, what, [&](const char* data, std::size_t n) { hash.update(data, n); });
  return hash.hex();
}

}  // namespace edgetok_impl
