// The user's cache, which Python and this library share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace edgetok_impl {

// EDGETOK_CACHE_DIR, or `edgetok` in XDG_CACHE_HOME or ~/.cache.
std::string cache_directory();

// The bytes of a regular file of this user that no other may write to; nothing if there is no such
// file, or it is larger than the limit.
std::optional<std::string> read_own(const std::string& path, std::int64_t limit_bytes);

// Writes beside `path`, then renames, readable by this user alone. False if it cannot be written.
bool publish(const std::string& path, const std::string& data);

// A directory and those above it, of this user alone where they are new. Throws Error(resources).
void make_folder(const std::string& path);

}  // namespace edgetok_impl
