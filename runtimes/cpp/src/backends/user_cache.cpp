#include "backends/user_cache.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bundle/files.hpp"
#include "error.hpp"

namespace edgetok_impl {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): written by the first load alone
  return value == nullptr ? "" : value;
}

std::string home() {
  std::string given = variable("HOME");
  if (!given.empty()) return given;
  std::vector<char> room(16384);
  passwd entry{}, *found = nullptr;
  getpwuid_r(getuid(), &entry, room.data(), room.size(), &found);
  return found == nullptr || found->pw_dir == nullptr ? "/" : found->pw_dir;
}

bool is_own(const Descriptor& file, std::int64_t limit_bytes) {
  struct stat status{};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  return status.st_uid == geteuid() && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0 && status.st_size <= limit_bytes;
}

bool write_all(const Descriptor& file, const std::string& data) {
  for (std::size_t at = 0; at < data.size();) {
    const ssize_t put = write(file.get(), data.data() + at, data.size() - at);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    at += static_cast<std::size_t>(put);
  }
  return fsync(file.get()) == 0;
}

}  // namespace

std::string cache_directory() {
  std::string given = variable("EDGETOK_CACHE_DIR");
  const std::string shared = variable("XDG_CACHE_HOME");
  if (!given.empty()) return given;
  return (!shared.empty() && shared[0] == '/' ? shared : home() + "/.cache") + "/edgetok";
}

std::optional<std::string> read_own(const std::string& path, std::int64_t limit_bytes) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0 || !is_own(file, limit_bytes)) return std::nullopt;
  try {
    return read_up_to(file, static_cast<std::size_t>(limit_bytes) + 1, path);
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool publish(const std::string& path, const std::string& data) {
  const auto slash = path.rfind('/');
  std::string temporary = path.substr(0, slash + 1) + "." + path.substr(slash + 1) + ".XXXXXX";
  const Descriptor file(mkostemp(temporary.data(), O_CLOEXEC));  // which makes it 0600
  if (file.get() < 0) return false;
  if (write_all(file, data) && rename(temporary.c_str(), path.c_str()) == 0) return true;
  unlink(temporary.c_str());
  return false;
}

void make_folder(const std::string& path) {
  for (auto end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
    mkdir(path.substr(0, end).c_str(), 0700);
  }
  struct stat status{};
  if (mkdir(path.c_str(), 0700) == 0 || (stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))) return;
  throw Error(Code::resources, path + ": engines cannot be kept there: " + describe_error(errno) +
                                   "; set EDGETOK_CACHE_DIR to a directory that can be written");
}

}  // namespace edgetok_impl
