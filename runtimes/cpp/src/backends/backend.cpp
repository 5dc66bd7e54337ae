#include "backends/backend.hpp"

#include <algorithm>

#include "backends/engines.hpp"
#include "backends/providers.hpp"
#include "backends/session.hpp"

namespace edgetok_impl {

const Buffer& Graph::find(const std::map<std::string, Buffer>& buffers, const std::string& name) const {
  const auto found = buffers.find(name);
  if (found == buffers.end()) throw bundle_error(file_ + ": has no tensor " + name + "; export again");
  return found->second;
}

std::string pick_flavour(const std::string& device, const std::string& asked, const Manifest& m) {
  const bool portable = std::any_of(m.stages.begin(), m.stages.end(),
                                    [](const Stage& stage) { return stage.flavour == "portable"; });
  const bool quantized = m.weights != "fp32" && device != "cpu";  // products that no GPU has kernels for
  const bool standard = needs_standard_operators(device) || (quantized && portable);
  return !asked.empty() ? asked : standard ? "portable" : "ort";
}

std::unique_ptr<Backend> make_backend(const Bundle& bundle, const BackendOptions& options) {
  if (options.packed && options.device != "cpu") {
    throw usage_error("packed weights are those of device cpu, and device is " + options.device + "; leave packed at 0");
  }
  if (!runs_engines(options.device)) return std::make_unique<OrtBackend>(bundle, options);
  if (bundle.manifest().encoder) {
    throw usage_error("device " + options.device + " runs bundles with a language model; use a device of ONNX Runtime");
  }
  return std::make_unique<EngineBackend>(bundle, options);
}

}  // namespace edgetok_impl
