#include "engines.hpp"

#include <algorithm>

#include "engine_graph.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"
#include "user_cache.hpp"

namespace edgetok_impl {

namespace {

const char kRtx[] = "tensorrt_rtx";

std::string require_precision(const std::string& precision) {
  if (precision == "fp16" || precision == "bf16" || precision == "fp32") return precision;
  throw usage_error("precision `" + shorten(precision) + "` is unknown; use fp32, fp16 or bf16");
}

Wanted wanted_of(const Bundle& bundle, const BackendOptions& options, const Toolkit& toolkit, const GpuName& gpu) {
  // One of TensorRT is for its GPU and driver alone, one of TensorRT for RTX for all of a capability.
  const bool is_rtx = toolkit.module() == kRtx;
  return {bundle.manifest().digest, require_precision(options.precision), toolkit.module(), toolkit.version(),
          is_rtx ? gpu.capability : gpu.text()};
}

}  // namespace

EngineBackend::EngineBackend(const Bundle& bundle, const BackendOptions& options)
    : bundle_(bundle),
      toolkit_(open_toolkit(options.device)),
      gpu_(toolkit_->cuda()),
      cache_(wanted_of(bundle, options, *toolkit_, gpu_.name())),
      memory_(gpu_) {
  if (toolkit_->module() != kRtx) return;
  kernels_path_ = kernels_path(kRtx + (" " + toolkit_->version()), gpu_.name().text());
  kernels_ = read_own(kernels_path_, limits::TIMING_BYTES).value_or("");
  if (!kernels_.empty()) toolkit_->use_kernels(kernels_);
}

// What was compiled is kept; a cache that cannot be written costs the next start time.
EngineBackend::~EngineBackend() {
  try {
    const std::string compiled = kernels_path_.empty() ? "" : toolkit_->kernels();
    if (!compiled.empty() && compiled != kernels_) publish(kernels_path_, compiled);
  } catch (...) {
  }
}

EngineBackend::Opened& EngineBackend::open(const EngineEntry& entry) {
  const auto found = engines_.find(entry.path);
  if (found != engines_.end()) return found->second;
  auto engine = toolkit_->open(cache_.read_engine(entry));
  if (engine == nullptr) {
    throw incompatible(entry.path + ".engine: " + toolkit_->module() + " " + toolkit_->version() + " on " +
                       gpu_.name().text() + " does not open it (" + shorten(toolkit_->last_error(), 300) + "); " +
                       cache_.way_out() + " --again");
  }
  return engines_[entry.path] = {&entry, cache_.read_constants(entry), std::move(engine)};
}

std::unique_ptr<Graph> EngineBackend::bind(const Stage& stage) {
  bundle_.graph(stage);  // is admitted, though its engine is what runs
  Opened& opened = open(cache_.find(stage.file));
  const auto& files = opened.entry->files;
  const auto rung = std::find(files.begin(), files.end(), stage.file) - files.begin();
  const bool own_profile = files.size() > 1 && toolkit_->module() != kRtx;
  return std::make_unique<EngineGraph>(
      stage, *opened.engine, gpu_, memory_,
      EngineRung{static_cast<int>(rung), own_profile, opened.entry->constants[static_cast<std::size_t>(rung)],
                 opened.constants, cache_.way_out()});
}

}  // namespace edgetok_impl
