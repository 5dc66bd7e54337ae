#include "runtime/encoder.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "generated.hpp"
#include "machine.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kScratchBytes = 64 << 20;  // sessions and activations of the smallest encoder

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

const EncoderSide& require_encoder(const Manifest& m) {
  if (m.encoder) return *m.encoder;
  throw usage_error("this bundle answers questions about pictures; load it with edgetok_model_load");
}

std::set<std::int64_t> pick_budgets(const Manifest& m, const std::vector<std::int64_t>& wanted) {
  std::vector<std::int64_t> all;
  for (const auto& rung : m.ladder) all.push_back(rung.budget);
  for (const auto budget : wanted) {
    if (m.rung(budget) != nullptr) continue;
    throw usage_error("no rung of " + std::to_string(budget) + " patches; this bundle has " + format_list(all));
  }
  const auto& picked = wanted.empty() ? all : wanted;
  return {picked.begin(), picked.end()};
}

void require_flavour(const Manifest& m, const std::string& flavour) {
  if (flavour != "ort" && flavour != "portable") {
    throw usage_error("flavour `" + shorten(flavour) + "` is unknown; choose ort, portable");
  }
  for (const auto& stage : m.stages) {
    if (stage.flavour == flavour) return;
  }
  throw usage_error("this bundle has no " + flavour + " graphs; export it again with --flavour " + flavour +
                    ", or run its ort graphs");
}

void require_memory(const Manifest& m) {
  const std::int64_t needed = kScratchBytes + weights_bytes(m);
  const auto available = available_bytes();
  if (available < 0 || needed <= available) return;
  throw Error(Code::resources, "this bundle needs at least " + std::to_string(needed >> 20) + " MiB and " +
                                   std::to_string(available >> 20) +
                                   " MiB are free; end other programs, or export with int4 weights");
}

template <class T>
std::vector<T> copy(const Buffer& buffer) {
  const T* first = buffer.as<T>();
  return {first, first + buffer.count<T>()};
}

// An output without its first dimension, which is of one picture or text.
Encoding read_output(const Tensor& tensor, const Graph& graph) {
  const Buffer& buffer = graph.output(tensor.name);
  Encoding out;
  out.name = tensor.name;
  out.values = copy<float>(buffer);
  out.shape.assign(tensor.shape.begin() + 1, tensor.shape.end());
  return out;
}

std::string format_size(std::int64_t width, std::int64_t height) {
  return std::to_string(width) + "x" + std::to_string(height);
}

}  // namespace

Encoder::Encoder(std::shared_ptr<const Bundle> bundle, const LoadOptions& options)
    : bundle_(std::move(bundle)),
      side_(require_encoder(bundle_->manifest())),
      plan_(parse_image_plan(bundle_->read("processor/image.json"))) {
  const Manifest& m = bundle_->manifest();
  const auto budgets = pick_budgets(m, options.budgets);
  const std::string flavour = pick_flavour(options.device, options.flavour, m);
  require_flavour(m, flavour);
  backend_ = make_backend(*bundle_, {options.device, flavour, options.precision, pick_threads(options.threads),
                                     options.packed});
  require_memory(m);
  for (auto budget = budgets.rbegin(); budget != budgets.rend(); ++budget) {  // the largest first: see `Backend`
    graphs_[*budget] = backend_->bind(bundle_->stage(names::ENCODE, *budget, flavour));
  }
  if (side_.text) describe_ = backend_->bind(bundle_->stage(names::DESCRIBE, 0, flavour));
  bundle_->require_same_weights();
}

std::unique_lock<std::mutex> Encoder::take_turn() {
  std::unique_lock<std::mutex> lock(turn_, std::try_to_lock);
  if (lock.owns_lock()) return lock;
  throw usage_error("this encoder is at work already and has one set of buffers; wait, or load the bundle again");
}

Graph& Encoder::graph(std::int64_t budget) const {
  if (budget == 0) return *graphs_.rbegin()->second;
  const auto found = graphs_.find(budget);
  if (found != graphs_.end()) return *found->second;
  std::vector<std::int64_t> loaded;
  for (const auto& [known, graph] : graphs_) loaded.push_back(known);
  throw usage_error("the rung of " + std::to_string(budget) + " patches is not loaded; loaded are " +
                    format_list(loaded));
}

Image Encoder::prepare(const Picture& picture) const {
  const auto start = Clock::now();
  const auto& vision = bundle_->manifest().vision;
  const std::string reads = "this bundle reads " + format_size(vision.width_px, vision.height_px) +
                            "; its processor/image.json does not fit its graphs";
  if (plan_.tiles) throw input_error("the image was to be cut into tiles, and " + reads);
  const Picture fitted = fit(picture, plan_);
  if (fitted.width != vision.width_px || fitted.height != vision.height_px) {
    throw input_error("the image became " + format_size(fitted.width, fitted.height) + " pixels; " + reads);
  }
  Image out;
  out.digest = bundle_->manifest().digest;
  out.pixels = normalise(fitted, plan_);
  if (!std::all_of(out.pixels.begin(), out.pixels.end(), [](float v) { return std::isfinite(v); })) {
    throw input_error("pixels hold NaN or infinity; normalise the image again");
  }
  out.preprocess_ms = milliseconds_since(start);
  return out;
}

Encoding Encoder::encode(const Image& image, std::int64_t budget) {
  Graph& graph = this->graph(budget);
  if (image.digest != bundle_->manifest().digest) {
    throw usage_error("the image was prepared for another bundle; prepare it with this encoder");
  }
  const auto turn = take_turn();
  const auto start = Clock::now();
  graph.input(names::PIXELS).write(image.pixels);
  graph.run();
  Encoding out = read_output(side_.output, graph);
  out.kept = copy<std::int64_t>(graph.output(names::KEPT));
  out.sizes = copy<float>(graph.output(names::SIZES));
  out.rows = static_cast<std::int64_t>(out.sizes.size());
  out.budget = budget == 0 ? graphs_.rbegin()->first : budget;
  out.preprocess_ms = image.preprocess_ms;
  out.encode_ms = milliseconds_since(start);
  return out;
}

Encoding Encoder::describe(const Ids& ids) {
  if (!side_.text) throw usage_error("this bundle's task is " + side_.task + ", which takes no texts");
  if (static_cast<std::int64_t>(ids.size()) != side_.text->tokens) {
    throw input_error("a text has " + std::to_string(ids.size()) + " tokens; this model reads " +
                      std::to_string(side_.text->tokens) + ", padded as its tokenizer pads them");
  }
  if (const auto low = *std::min_element(ids.begin(), ids.end()); low < 0) {
    throw input_error("token id " + std::to_string(low) + " is negative; give what the bundle's tokenizer made");
  }
  const auto turn = take_turn();
  const auto start = Clock::now();
  describe_->input(names::TOKEN_IDS).write(ids);
  try {
    describe_->run();
  } catch (const Error& error) {
    if (error.code != Code::incompatible) throw;
    // Its shapes were checked, so what is left are ids beyond the table of embeddings.
    throw input_error("the token ids cannot be read, the largest of which is " +
                      std::to_string(*std::max_element(ids.begin(), ids.end())) +
                      "; give what the bundle's tokenizer made (" + error.what() + ")");
  }
  Tensor tensor = side_.output;
  tensor.name = names::TEXT_EMBEDDING;
  Encoding out = read_output(tensor, *describe_);
  out.encode_ms = milliseconds_since(start);
  return out;
}

}  // namespace edgetok_impl
