// Opening a bundle: nothing is used before its size and its hash agree with the manifest.
#pragma once

#include <map>
#include <string>

#include "bundle/files.hpp"
#include "bundle/manifest.hpp"
#include "generated.hpp"

namespace edgetok_impl {

class Bundle {
 public:
  // Reads the manifest and checks every listed file; without `check_hashes` sizes only, and `read`
  // and `graph` check the hash of what they return all the same. Throws Error(bundle).
  Bundle(const std::string& root, bool check_hashes);

  const std::string& root() const { return root_; }
  const Manifest& manifest() const { return manifest_; }

  // The bytes of a listed file, which may have `most`; what is returned is what was hashed.
  std::string read(const std::string& path, std::int64_t most = limits::BUNDLE_READ_BYTES) const;

  // A listed file, opened; throws if it is not the file that was checked.
  Descriptor open(const std::string& path) const;

  // Throws if sessions, which open weights by name, may have met others than those that were checked.
  void require_same_weights() const;

  // The graph that serves a rung, its own or the one that all rungs share.
  const Stage& stage(const std::string& stage, std::int64_t budget, const std::string& flavour) const;

  // The bytes of an admitted graph, to make a session of.
  std::string graph(const Stage& stage) const;

 private:
  const File& file(const std::string& path) const;
  Descriptor opened(const Descriptor& root, const std::string& path) const;

  std::string root_;
  Manifest manifest_;
  std::map<std::string, Identity> checked_;
};

}  // namespace edgetok_impl
