// Devices by the names that Python's --device has, and the providers of ONNX Runtime that serve them.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <string>

namespace edgetok_impl {

// Each throws Error(usage) for a device that there is none of.

// Whether the device runs engines of TensorRT without ONNX Runtime.
bool runs_engines(const std::string& device);

// Whether it makes or runs engines, of standard operators.
bool needs_standard_operators(const std::string& device);

// Throws Error(incompatible) where the linked ONNX Runtime lacks
// its provider: by itself it would run on the CPU.
void require_provider(const std::string& device);

// Has sessions run on the device alone. Providers that make engines keep them in `folder`.
void append_provider(Ort::SessionOptions& options, const std::string& device, const std::string& folder);

// Where a device's provider keeps engines of a bundle; empty where it makes none.
std::string engine_folder(const std::string& device, const std::string& digest);

}  // namespace edgetok_impl
