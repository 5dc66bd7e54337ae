#include "bundle/bundle.hpp"

#include <climits>
#include <cstdlib>

#include "bundle/admission.hpp"
#include "bundle/hash.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

const char kManifest[] = "manifest.json";
const char kTokenizer[] = "processor/tokenizer.json";
const char kWayOut[] = "copy or export the bundle again";

std::string read_manifest(const Descriptor& root, const std::string& name) {
  if (!exists_beneath(root, kManifest)) {
    throw bundle_error(shorten(name, 300) + ": incomplete, there is no " + kManifest +
                       "; an export was interrupted or this is not a bundle; " + kWayOut);
  }
  return read_up_to(open_beneath(root, kManifest), limits::MANIFEST_BYTES + 1, kManifest);
}

void require_hash(const std::string& path, const File& file, const std::string& actual) {
  if (actual == file.sha256) return;
  throw bundle_error(path + ": damaged or changed; sha256 is " + actual + ", but the manifest says " +
                     file.sha256 + "; " + kWayOut);
}

std::string absolute(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    throw bundle_error("a bundle's path is empty or holds a NUL; give the path of a bundle");
  }
  char* found = realpath(path.c_str(), nullptr);
  std::string out = found == nullptr ? path : found;
  std::free(found);
  return out;
}

}  // namespace

Bundle::Bundle(const std::string& root, bool check_hashes) : root_(absolute(root)) {
  const Descriptor directory = open_root(root_);
  manifest_ = parse_manifest(read_manifest(directory, root_));
  for (const auto& [path, file] : manifest_.files) {
    const Descriptor found = opened(directory, path);
    checked_[path] = identify(found);
    if (check_hashes) require_hash(path, file, hash_file(found, path));
  }
}

Descriptor Bundle::opened(const Descriptor& root, const std::string& path) const {
  Descriptor found = open_beneath(root, path);
  const auto actual = identify(found).bytes;
  if (actual != file(path).bytes) {
    throw bundle_error(path + ": " + std::to_string(actual) + " bytes, but the manifest says " +
                       std::to_string(file(path).bytes) + "; " + kWayOut);
  }
  return found;
}

const File& Bundle::file(const std::string& path) const {
  const auto found = manifest_.files.find(path);
  if (found != manifest_.files.end()) return found->second;
  throw bundle_error("`" + shorten(path) +
                     "` is not listed in the manifest, so it is not part of the bundle");
}

std::string Bundle::read(const std::string& path) const {
  const File& listed = file(path);
  if (listed.bytes > limits::BUNDLE_READ_BYTES) {
    throw bundle_error(path + ": " + std::to_string(listed.bytes) + " bytes; at most " +
                       std::to_string(limits::BUNDLE_READ_BYTES) + " are read whole");
  }
  std::string data =
      read_up_to(opened(open_root(root_), path), static_cast<std::size_t>(listed.bytes), path);
  require_hash(path, listed, sha256_hex(data));
  return data;
}

std::string Bundle::tokenizer() const {
  const std::int64_t bytes = file(kTokenizer).bytes;
  if (bytes <= limits::TOKENIZER_BYTES) return read(kTokenizer);
  throw bundle_error(std::string(kTokenizer) + ": " + std::to_string(bytes) + " bytes; a tokenizer has at most " +
                     std::to_string(limits::TOKENIZER_BYTES));
}

Descriptor Bundle::open(const std::string& path) const {
  Descriptor found = opened(open_root(root_), path);
  if (identify(found) == checked_.at(path)) return found;
  throw bundle_error(path + ": was changed after the bundle was opened; open it again");
}

void Bundle::require_same_weights() const {
  for (const auto& [path, file] : manifest_.files) {
    if (is_weights(path)) open(path);
  }
}

const Stage& Bundle::stage(const std::string& stage, std::int64_t budget,
                           const std::string& flavour) const {
  const auto found = stages_of(manifest_, stage, budget, flavour);
  if (!found.empty()) return *found.front();
  throw bundle_error("no " + flavour + " graph of stage " + stage + " for " + std::to_string(budget) +
                     " visual tokens");
}

std::string Bundle::graph(const Stage& stage) const {
  if (file(stage.file).bytes > limits::GRAPH_BYTES) {
    throw bundle_error(stage.file + ": a graph has at most " + std::to_string(limits::GRAPH_BYTES) + " bytes");
  }
  std::string data = read(stage.file);
  admit_graph(data, stage, manifest_.files);
  return data;
}

}  // namespace edgetok_impl
