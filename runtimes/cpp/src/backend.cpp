#include "backend.hpp"

#include "session.hpp"

namespace edgetok_impl {

const Buffer& Graph::find(const std::map<std::string, Buffer>& buffers, const std::string& name) const {
  const auto found = buffers.find(name);
  if (found == buffers.end()) throw bundle_error(file_ + ": has no tensor " + name + "; export again");
  return found->second;
}

std::unique_ptr<Backend> make_backend(const Bundle& bundle, const BackendOptions& options) {
  return std::make_unique<OrtBackend>(bundle, options);
}

}  // namespace edgetok_impl
