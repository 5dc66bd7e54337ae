// In place of tensorrt.cpp, where TensorRT was not found.
#include "error.hpp"
#include "toolkit.hpp"

namespace edgetok_impl {

std::unique_ptr<Toolkit> open_toolkit(const std::string& device) {
  throw incompatible("device " + device + " needs TensorRT, which this library was built without; build it where " +
                     "NvInfer.h and CUDA are found (cmake -DEDGETOK_TENSORRT=ON), or use device cpu");
}

}  // namespace edgetok_impl
