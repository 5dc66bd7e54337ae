#include "providers.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "error.hpp"
#include "text.hpp"
#include "user_cache.hpp"

namespace edgetok_impl {

namespace {

void add_nothing(Ort::SessionOptions&, const std::string&) {}

void add_cuda(Ort::SessionOptions& options, const std::string&) {
  OrtCUDAProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&made));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> held(
      made, [](auto* each) { Ort::GetApi().ReleaseCUDAProviderOptions(each); });
  options.AppendExecutionProvider_CUDA_V2(*held);
}

void add_tensorrt(Ort::SessionOptions& options, const std::string& folder) {
  OrtTensorRTProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(Ort::GetApi().CreateTensorRTProviderOptions(&made));
  const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2*)> held(
      made, [](auto* each) { Ort::GetApi().ReleaseTensorRTProviderOptions(each); });
  const char* keys[] = {"trt_engine_cache_enable", "trt_engine_cache_path", "trt_timing_cache_enable",
                        "trt_timing_cache_path"};
  const char* values[] = {"1", folder.c_str(), "1", folder.c_str()};
  Ort::ThrowOnError(Ort::GetApi().UpdateTensorRTProviderOptions(held.get(), keys, values, 4));
  options.AppendExecutionProvider_TensorRT_V2(*held);
  add_cuda(options, folder);  // what it leaves
}

void add_rtx(Ort::SessionOptions& options, const std::string& folder) {
  options.AppendExecutionProvider("NvTensorRtRtx", {{"nv_runtime_cache_path", folder}});
  add_cuda(options, folder);
}

struct Device {
  const char* name;
  const char* provider;  // none where ONNX Runtime is not used
  bool makes_engines;
  void (*append)(Ort::SessionOptions& options, const std::string& folder);
};

constexpr Device kDevices[] = {
    {"cpu", "CPUExecutionProvider", false, add_nothing},
    {"cuda", "CUDAExecutionProvider", false, add_cuda},
    {"ort-tensorrt", "TensorrtExecutionProvider", true, add_tensorrt},
    {"ort-rtx", "NvTensorRTRTXExecutionProvider", true, add_rtx},
    {"tensorrt", nullptr, true, add_nothing},
    {"rtx", nullptr, true, add_nothing},
};

const Device& find_device(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& device : kDevices) {
    if (name == device.name) return device;
    names.emplace_back(device.name);
  }
  throw usage_error("device `" + shorten(name) + "` is unknown; use one of " + join(names, ", "));
}

}  // namespace

bool runs_engines(const std::string& device) { return find_device(device).provider == nullptr; }

bool needs_standard_operators(const std::string& device) { return find_device(device).makes_engines; }

void require_provider(const std::string& device) {
  const std::string provider = find_device(device).provider;
  const auto available = Ort::GetAvailableProviders();
  if (std::find(available.begin(), available.end(), provider) != available.end()) return;
  throw incompatible("device " + device + " needs " + provider + ", and the linked onnxruntime " +
                     OrtGetApiBase()->GetVersionString() + " has " + join(available, ", ") +
                     "; link edgetok with a build of onnxruntime that has it, or use device cpu");
}

void append_provider(Ort::SessionOptions& options, const std::string& device, const std::string& folder) {
  if (device == "cpu") return;
  // One node on the CPU would copy its tensors back and forth at every step; a provider that could
  // not start would leave all of them to it. Either is an error of the session's instead.
  options.AddConfigEntry("session.disable_cpu_ep_fallback", "1");
  find_device(device).append(options, folder);
}

std::string engine_folder(const std::string& device, const std::string& digest) {
  const Device& found = find_device(device);
  if (!found.makes_engines || found.provider == nullptr) return "";
  return cache_directory() + "/engines/" + digest.substr(0, 16) + "/onnxruntime-" +
         OrtGetApiBase()->GetVersionString() + "-" + found.provider;
}

}  // namespace edgetok_impl
