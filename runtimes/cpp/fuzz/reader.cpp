// libFuzzer over what reads strangers' bytes: the manifest, the plans of images and prompts, graphs,
// pictures and measured tables. The first byte says which.
#include <cstddef>
#include <cstdint>
#include <string>

#include "bundle/admission.hpp"
#include "bundle/buffers.hpp"
#include "control/controller.hpp"
#include "error.hpp"
#include "images/picture.hpp"
#include "images/processor.hpp"
#include "tokenizer/prompt.hpp"

namespace {

using namespace edgetok_impl;

// Of the bundle that benchmarks/cpp_seeds.py says a table is of.
const std::string kDigest(64, 'd');

// A small picture also goes through a plan of every step.
void decode_and_prepare(const std::uint8_t* data, std::size_t bytes) {
  static const ImagePlan plan = parse_image_plan(R"({"resize_shortest_px": 9, "resize_px": null,
    "resample": "bicubic", "crop_px": [8, 8], "rescale": 0.5, "mean": [0, 0, 0], "std": [1, 1, 1],
    "square_rgb": [1, 2, 3]})");
  Picture picture = decode_image(data, bytes);
  if (picture.rgb.size() < 3 * 256 * 256) preprocess(std::move(picture), plan);
}

void read_manifest(const std::string& text) {
  const Manifest manifest = parse_manifest(text);
  if (!manifest.encoder) require_buffers(manifest, "ort");
}

void read(std::uint8_t kind, const std::uint8_t* data, std::size_t bytes) {
  const std::string text(reinterpret_cast<const char*>(data), bytes);
  switch (kind % 6) {
    case 0: read_manifest(text); break;
    case 1: parse_image_plan(text); break;
    case 2: admit_graph(text, Stage{"tower", {}, "ort", "onnx/tower.onnx", {}, {}, {}}, {}); break;
    case 3: decode_and_prepare(data, bytes); break;
    case 4: parse_prompt_plan(text); break;
    default: parse_table(text, kDigest); break;
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
