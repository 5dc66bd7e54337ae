#include "backends/engine_cache.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

#include "backends/buffer.hpp"
#include "backends/user_cache.hpp"
#include "bundle/hash.hpp"
#include "bundle/schema.hpp"
#include "edgetok/edgetok.h"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

using namespace schema;

const Schema* make_schema() {
  const auto* count = integer(0, std::int64_t{1} << 53);
  const auto* word = text("", 0, 200);
  const auto* sha256 = text("0-9a-f", 64, 64);
  const auto* words = list(word);
  const auto* recipe = object({
      {"bundle", sha256, {}},
      {"engine", text("A-Za-z0-9_.+-", 1, 120), {}},
      {"graph", sha256, {}},
      {"precision", word, {}},
      {"module", word, {}},
      {"module_version", word, {}},
      {"edgetok", word, {}},
      {"runs_on", words, {}},
  });
  const auto* constant = object({
      {"name", word, {}},
      {"dtype", choice({"float32", "float16", "int8", "uint8", "int32", "int64", "bool"}), {}},
      {"shape", list(integer(0, limits::TIMING_BYTES), 0, 8), {}},
      {"offset", count, {}},
  });
  return object({
      {"recipe", recipe, {}},
      {"bytes", integer(1, std::int64_t{1} << 53), {}},
      {"sha256", sha256, {}},
      {"budgets", list(nullable(integer(1, std::int64_t{1} << 40))), {}},
      {"files", words, {}},
      {"constants", list(list(constant)), {}},
      {"constants_bytes", count, {}},
      {"constants_sha256", sha256, {}},
  });
}

std::vector<std::string> read_words(const Value& value) {
  std::vector<std::string> out;
  for (const auto& each : value.list()) out.push_back(each.text());
  return out;
}

// Throws unless it lies inside of what there is.
Constant read_constant(const Value& value, std::int64_t held) {
  Constant out{{value.at("name").text(), value.at("dtype").text(), {}},
               static_cast<std::size_t>(value.at("offset").integer())};
  std::int64_t elements = 1;
  for (const auto& size : value.at("shape").list()) {
    out.tensor.shape.push_back(size.integer());
    if (size.integer() != 0 && elements > held / size.integer()) throw bundle_error("a constant is too large");
    elements *= size.integer();
  }
  if (bytes_of(out.tensor) > held - value.at("offset").integer()) throw bundle_error("a constant lies outside");
  return out;
}

EngineEntry read_entry(const std::string& path, const std::string& bytes) {
  static const Schema* const pinned = make_schema();
  Value v = parse_strict(bytes, path, static_cast<std::size_t>(limits::MANIFEST_BYTES));
  apply(*pinned, v, path);
  const Value& recipe = v.at("recipe");
  EngineEntry out;
  out.path = path;
  out.name = recipe.at("engine").text();
  out.graph = recipe.at("graph").text();
  out.made_for = {recipe.at("bundle").text(), recipe.at("precision").text(), recipe.at("module").text(),
                  recipe.at("module_version").text(), ""};
  out.edgetok = recipe.at("edgetok").text();
  out.runs_on = read_words(recipe.at("runs_on"));
  out.files = read_words(v.at("files"));
  out.bytes = v.at("bytes").integer();
  out.sha256 = v.at("sha256").text();
  out.constants_bytes = v.at("constants_bytes").integer();
  out.constants_sha256 = v.at("constants_sha256").text();
  for (const auto& rung : v.at("constants").list()) {
    auto& constants = out.constants.emplace_back();
    for (const auto& each : rung.list()) constants.push_back(read_constant(each, out.constants_bytes));
  }
  if (out.constants.size() != out.files.size()) throw bundle_error(path + ": rungs without their constants");
  return out;
}

// All engines with a sidecar that can be read, in the order of their names.
std::vector<EngineEntry> list_entries(const std::string& folder) {
  std::set<std::string> paths;
  std::error_code failed;
  for (std::filesystem::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
    if (at->path().extension() == ".engine") paths.insert((at->path().parent_path() / at->path().stem()).string());
  }
  std::vector<EngineEntry> out;
  for (const auto& path : paths) {
    const auto sidecar = read_own(path + ".json", limits::MANIFEST_BYTES);
    if (!sidecar) continue;
    try {
      out.push_back(read_entry(path, *sidecar));
    } catch (const Error&) {  // of another version, or damaged: as if it were not there
    }
  }
  return out;
}

bool fits(const EngineEntry& entry, const Wanted& wanted) {
  const auto& made = entry.made_for;
  return made.bundle == wanted.bundle && made.precision == wanted.precision && made.module == wanted.module &&
         is_same_version(made.version, wanted.version) && entry.edgetok == EDGETOK_VERSION &&
         std::find(entry.runs_on.begin(), entry.runs_on.end(), wanted.runs_on) != entry.runs_on.end();
}

std::string describe(const EngineEntry& entry) {
  return entry.made_for.title() + ", " + entry.made_for.precision + ", edgetok " + entry.edgetok + ", for " +
         join(entry.runs_on, "/");
}

std::string folder_of(const std::string& digest) { return cache_directory() + "/engines/" + digest.substr(0, 16); }

}  // namespace

bool is_same_version(const std::string& one, const std::string& other) {
  const std::string& brief = one.size() < other.size() ? one : other;
  const std::string& whole = one.size() < other.size() ? other : one;
  const auto numbers = std::count(brief.begin(), brief.end(), '.') + 1;
  return numbers >= 3 && whole.compare(0, brief.size(), brief) == 0 &&
         (whole.size() == brief.size() || whole[brief.size()] == '.');
}

std::string kernels_path(const std::string& title, const std::string& gpu) {
  const std::string module = title.substr(0, title.find(' '));
  return cache_directory() + "/engines/" + module + "-" + sha256_hex(title + "\n" + gpu).substr(0, 16) + ".kernels";
}

EngineCache::EngineCache(Wanted wanted) : wanted_(std::move(wanted)), folder_(folder_of(wanted_.bundle)) {
  std::set<std::string> others;
  for (auto& entry : list_entries(folder_)) {
    if (fits(entry, wanted_)) {
      fitting_.push_back(std::move(entry));
    } else {
      others.insert(describe(entry));
    }
  }
  others_.assign(others.begin(), others.end());
}

const EngineEntry& EngineCache::find(const std::string& file) const {
  const EngineEntry* found = nullptr;
  for (const auto& entry : fitting_) {
    if (std::find(entry.files.begin(), entry.files.end(), file) == entry.files.end()) continue;
    if (found != nullptr && found->files == entry.files && found->graph != entry.graph) {
      throw incompatible(found->path + ".engine and " + entry.path + ".engine were made of different graphs of " +
                         file + "; remove both, and " + way_out());
    }
    if (found == nullptr || entry.files.size() > found->files.size()) found = &entry;
  }
  if (found == nullptr) throw incompatible(missing(file));
  return *found;
}

std::string EngineCache::missing(const std::string& file) const {
  return file + ": there is no engine of it in " + folder_ + " for " + wanted_.title() + ", " + wanted_.precision +
         ", edgetok " EDGETOK_VERSION " on " + wanted_.runs_on + " (there are engines of: " +
         (others_.empty() ? "none" : join(others_, "; ")) + "); " + way_out();
}

std::string EngineCache::way_out() const {
  const bool is_rtx = wanted_.module == "tensorrt_rtx";
  return "build it here: edgetok build BUNDLE --precision " + wanted_.precision + " --target " +
         (is_rtx ? "rtx:" + wanted_.runs_on : wanted_.module);
}

namespace {

std::string read_pinned(const std::string& path, std::int64_t bytes, const std::string& sha256,
                        const std::string& way_out) {
  const auto data = read_own(path, bytes);
  if (data && data->size() == static_cast<std::size_t>(bytes) && sha256_hex(*data) == sha256) return *data;
  throw incompatible(path + ": is not the file that was published, or others may write to it; " + way_out + " --again");
}

}  // namespace

std::string EngineCache::read_engine(const EngineEntry& entry) const {
  return read_pinned(entry.path + ".engine", entry.bytes, entry.sha256, way_out());
}

std::string EngineCache::read_constants(const EngineEntry& entry) const {
  return read_pinned(entry.path + ".constants", entry.constants_bytes, entry.constants_sha256, way_out());
}

}  // namespace edgetok_impl
