// libFuzzer over what reads strangers' bytes: the manifest, the image plan, graphs and pictures.
// The first byte says which.
#include <cstddef>
#include <cstdint>
#include <string>

#include "admission.hpp"
#include "error.hpp"
#include "picture.hpp"
#include "processor.hpp"

namespace {

using namespace edgetok_impl;

void read(std::uint8_t kind, const std::uint8_t* data, std::size_t bytes) {
  const std::string text(reinterpret_cast<const char*>(data), bytes);
  switch (kind % 4) {
    case 0: parse_manifest(text); break;
    case 1: parse_image_plan(text); break;
    case 2: admit_graph(text, Stage{"tower", {}, "ort", "onnx/tower.onnx", {}, {}, {}}, {}); break;
    default: decode_image(data, bytes); break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return 0;
  try {
    read(data[0], data + 1, bytes - 1);
  } catch (const Error&) {  // a refusal is an answer; anything else ends the run
  }
  return 0;
}
