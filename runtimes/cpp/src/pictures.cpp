#include "pictures.hpp"

#include <algorithm>
#include <cmath>

#include "generated.hpp"
#include "text.hpp"
#include "thumbnail.hpp"

namespace edgetok_impl {

namespace {

constexpr float kLargestWeight = 1e6F;  // float32 counts shares of it exactly enough

// With the signal of the controller's thumbnail, if it asks for one.
void add_complexity(const Manifest& manifest, const std::vector<float>& pixels, Signals& signals) {
  if (!manifest.controller || !manifest.controller->thumbnail) return;
  const Thumbnail& thumbnail = *manifest.controller->thumbnail;
  const auto cells = describe(pixels.data(), manifest.vision.height_px, manifest.vision.width_px, thumbnail.cells);
  signals[names::SIGNAL_COMPLEXITY] = complexity(thumbnail, cells);
}

TowerOutput encode_one(Runtime& runtime, const Manifest& manifest, const std::vector<float>& pixels,
                       std::int64_t budget) {
  TowerOutput out = runtime.encode(pixels, budget);
  add_complexity(manifest, pixels, out.signals);
  return out;
}

TowerOutput join_outputs(std::vector<TowerOutput> outputs) {
  TowerOutput out = std::move(outputs.front());
  for (std::size_t i = 1; i < outputs.size(); ++i) {
    for (auto& [name, rows] : out.tensors) {
      const auto& more = outputs[i].tensors.at(name);
      rows.insert(rows.end(), more.begin(), more.end());
    }
    for (auto& [name, value] : out.signals) value += outputs[i].signals.at(name);
  }
  const auto edges = out.signals.find(names::SIGNAL_EDGES);
  if (edges != out.signals.end()) edges->second /= static_cast<double>(outputs.size());
  return out;
}

bool reads_weights(const Manifest& manifest) {
  return std::any_of(manifest.stages.begin(), manifest.stages.end(), [](const Stage& stage) {
    return stage.stage == "compress" &&
           std::any_of(stage.inputs.begin(), stage.inputs.end(),
                       [](const Tensor& tensor) { return tensor.name == names::PICTURE_WEIGHTS; });
  });
}

std::string count_pictures(std::size_t count) {
  return std::to_string(count) + " picture" + (count != 1 ? "s were" : " was") + " given";
}

}  // namespace

TowerOutput encode_pictures(Runtime& runtime, const Manifest& manifest, const std::vector<float>& pixels,
                            const std::vector<Seen>& pictures, std::int64_t budget) {
  if (pictures.size() == 1) return encode_one(runtime, manifest, pixels, budget);
  const auto size = static_cast<std::ptrdiff_t>(pixels.size() / pictures.size());
  auto first = pixels.begin();
  std::vector<TowerOutput> outputs;
  for (const auto& picture : pictures) {
    std::optional<TowerOutput>& seen = *picture;
    if (!seen || seen->budget.value_or(budget) != budget) {
      seen = encode_one(runtime, manifest, {first, first + size}, budget);
    }
    outputs.push_back(*seen);
    first += size;
  }
  return join_outputs(std::move(outputs));
}

void require_pictures(const Manifest& manifest, std::size_t count) {
  const auto wanted = manifest.vision.pictures;
  if (count == static_cast<std::size_t>(wanted)) return;
  throw usage_error(count_pictures(count) + " and prompts of this bundle have " + std::to_string(wanted) + "; give " +
                    std::to_string(wanted) + ", or export with --images " +
                    std::to_string(std::max<std::size_t>(count, 1)));
}

void require_weights(const Manifest& manifest, const std::vector<float>& weights) {
  if (weights.empty()) return;
  if (!reads_weights(manifest)) {
    throw usage_error("the method " + manifest.method +
                      " of this bundle reads no weights of pictures; export with --method quota");
  }
  const auto wanted = manifest.vision.pictures;
  if (weights.size() != static_cast<std::size_t>(wanted)) {
    throw usage_error(std::to_string(weights.size()) + " weights were given for " + std::to_string(wanted) +
                      " pictures; give " + std::to_string(wanted));
  }
  const bool fit = std::all_of(weights.begin(), weights.end(), [](float w) { return w >= 0 && w <= kLargestWeight; });
  const bool some = std::any_of(weights.begin(), weights.end(), [](float w) { return w > 0; });
  if (fit && some) return;
  throw usage_error("weights of pictures must each be 0 to " + format_number(static_cast<double>(kLargestWeight), 6) +
                    ", and one above 0");
}

}  // namespace edgetok_impl
