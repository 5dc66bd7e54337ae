#include "bundle/buffers.hpp"

#include <algorithm>
#include <iterator>
#include <set>

#include "bundle/contradictions.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

using Stages = std::set<std::string>;

constexpr std::size_t kShown = 8;
constexpr char kMemory[] = "past_convolution_";  // has no rows, and a number of its own in place of a layer's
constexpr const char* kTiers[] = {"high_", "low_"};  // in the order in which past_filled counts them

const Stages kInPrefill = {"prefill", names::SEGMENT, names::EXITED};
const Stages kWhole = {"prefill", names::SEGMENT, names::EXITED, names::EXTEND, "decode"};  // write rows in place
const Stages kOverCache = {"prefill", names::SEGMENT, names::EXITED, names::EXTEND, "decode", names::FLUSH, names::COMPACT};

bool begins(const std::string& text, const std::string& start) { return text.compare(0, start.size(), start) == 0; }

std::string str(std::int64_t value) { return std::to_string(value); }

const Tensor* find(const Buffers& buffers, const std::string& name) {
  const auto found = buffers.find(name);
  return found == buffers.end() ? nullptr : &found->second;
}

std::int64_t rows_of(const Tensor* tensor) { return tensor != nullptr && tensor->shape.size() > 2 ? tensor->shape[2] : 0; }

// The number behind past_key_, say; -1 where there is none.
std::int64_t number_of(const std::string& name) {
  const auto at = name.rfind('_');
  const std::string digits = name.substr(at + 1), kind = name.substr(0, at);
  const bool plain = kind.size() > 5 && kind.find_first_not_of("abcdefghijklmnopqrstuvwxyz_", 5) == std::string::npos;
  const bool number = !digits.empty() && digits.size() <= 9 && digits.find_first_not_of("0123456789") == std::string::npos;
  return plain && number && (digits[0] != '0' || digits.size() == 1) ? std::stoll(digits) : -1;
}

// Those of each layer, by name without past_ and number; each has rows, or counts them.
using Layers = std::map<std::int64_t, Buffers>;

Layers by_layer(const Buffers& buffers) {
  Layers out;
  for (const auto& [name, tensor] : buffers) {
    const std::int64_t layer = number_of(name);
    if (layer >= 0 && !begins(name, kMemory)) out[layer][name.substr(5, name.rfind('_') - 5)] = tensor;
  }
  return out;
}

// What the names of buffers begin with that rows go to when they leave the ring, or at once.
Found tiers_of(const Kv& kv) { return kv.filing == "tiers" ? Found(std::begin(kTiers), std::end(kTiers)) : Found{""}; }

bool holds_bytes(const Tensor& tensor) { return tensor.dtype == "int8" || tensor.dtype == "uint8"; }

// Keys or values of a layer are of its heads, whole or with some numbers in a byte.
void head_problems(const Kv& kv, const std::vector<const Tensor*>& parts, Found& out) {
  std::int64_t widest = -1;
  for (const auto* part : parts) {
    if (!holds_bytes(*part) && !part->shape.empty()) widest = std::max(widest, part->shape.back());
  }
  if (widest >= 0 && widest != kv.head_dim) {
    out.push_back(parts[0]->name + " has " + str(widest) + " numbers, and $.kv.head_dim is " + str(kv.head_dim));
  }
  for (const auto* part : parts) {
    const auto& shape = part->shape;
    if (shape.size() != 4 || shape[0] != 1 || shape[1] != kv.kv_heads || shape[3] == 0) {
      out.push_back(part->name + " " + format_list(shape) + " is not [1, " + str(kv.kv_heads) + ", rows, width]");
    } else if (holds_bytes(*part) && kv.head_dim != shape[3] && kv.head_dim != 2 * shape[3] && kv.head_dim != 4 * shape[3]) {
      out.push_back(part->name + ": " + str(shape[3]) + " bytes hold no head of " + str(kv.head_dim) + " numbers");
    }
  }
}

// A layer has room for its rows.
void side_problems(const Kv& kv, std::size_t layer, const std::string& side, const Buffers& own, Found& out) {
  std::int64_t rows = 0;
  std::vector<const Tensor*> parts;
  Found kinds = tiers_of(kv);
  kinds.emplace_back("ring_");
  for (const auto& kind : kinds) {
    const Tensor* part = find(own, kind + side);
    rows += rows_of(part);
    if (part != nullptr) parts.push_back(part);
  }
  head_problems(kv, parts, out);
  const std::int64_t slots = kv.slots[layer];
  if (rows > slots ? kv.filing != "none" : rows == slots) return;
  out.push_back(side + " buffers of layer " + std::to_string(layer) + " have " + str(rows) + " rows, and $.kv.slots is " +
                str(slots));
}

// They are where the host and the layer's graphs believe them to be.
void layer_problems(const Kv& kv, std::size_t layer, const Buffers& own, Found& out) {
  side_problems(kv, layer, "key", own, out);
  side_problems(kv, layer, "value", own, out);
  for (const auto& [kind, buffer] : own) {
    const bool waits = begins(kind, "ring_");
    const std::int64_t rows = rows_of(&buffer), wanted = waits ? kv.ring : kv.slots[layer];
    if ((!waits && kv.ring != 0) || (rows == wanted && wanted != 0)) continue;
    out.push_back(buffer.name + " has " + str(rows) + " rows, and $.kv." + (waits ? "ring is " : "slots is ") + str(wanted));
  }
  for (const char* kind : {"ring_key", "ring_value"}) {
    const bool needed = kv.ring != 0 && (kv.filing != "none" || kind == std::string("ring_key"));
    if (needed && own.count(kind) == 0) out.push_back(std::string("past_") + kind + "_" + std::to_string(layer) + " is missing");
  }
  const Tensor* filled = find(own, "filled");
  const bool counts = filled != nullptr && filled->dtype == "int32" && filled->shape == Shape{std::size(kTiers)};
  if (kv.filing != "tiers" || counts) return;
  out.push_back("past_filled_" + std::to_string(layer) + " is missing, or not int32 [2]");
}

// What a graph calls a buffer against the buffer, or against some of its rows.
void add_misfit(const Tensor& tensor, const Tensor* buffer, bool whole, Found& out) {
  if (buffer == nullptr) return out.push_back(tensor.name + " is no buffer that decode reads");
  if (!whole && buffer->shape.size() < 3) return out.push_back(tensor.name + ": " + buffer->name + " has no rows");
  Shape wanted = buffer->shape;
  if (!whole && tensor.shape.size() > 2) wanted[2] = tensor.shape[2];
  if (!whole && tensor.shape.size() < 3) wanted.erase(wanted.begin() + 2);
  if (tensor.dtype == buffer->dtype && tensor.shape == wanted) return;
  out.push_back(tensor.name + " is " + tensor.dtype + " " + format_list(tensor.shape) + ", not " + buffer->dtype + " " +
                format_list(wanted));
}

// A graph reads buffers whole, and decode reads all of them.
void read_problems(const Stage& stage, const Buffers& buffers, Found& out) {
  std::set<std::string> listed;
  for (const auto& tensor : stage.inputs) {
    listed.insert(tensor.name);
    if (!is_buffer(tensor.name)) continue;
    if (kOverCache.count(stage.stage) == 0) {
      out.push_back(tensor.name + " is read by " + stage.stage + ", which has no cache");
    }
    add_misfit(tensor, find(buffers, tensor.name), true, out);
  }
  for (const auto& [name, buffer] : buffers) {
    if (stage.stage == "decode" && listed.count(name) == 0) out.push_back(name + " is read by other graphs of decode");
  }
}

// Rows that the host will write into a buffer find room there, as often as it will do so.
void part_problems(const Kv& kv, const Stage& stage, const Tensor& part, const Tensor& buffer, Found& out) {
  const std::int64_t rows = rows_of(&part);
  if (stage.stage == names::COMPACT) {
    const auto layer = static_cast<std::size_t>(stage.layer.value_or(0));
    const std::int64_t keep = layer < kv.keep.size() ? kv.keep[layer] : 0;
    if (rows != keep) out.push_back(part.name + " has " + str(rows) + " rows, and $.kv.keep is " + str(keep));
    return;
  }
  const auto is_part = [&](const std::string& tier) { return begins(part.name, "flushed_" + tier); };
  const auto tiers = tiers_of(kv);
  if (kv.filing == "none" || std::none_of(tiers.begin(), tiers.end(), is_part) || is_part("ring_")) {
    out.push_back(part.name + " is nothing that is filed as " + kv.filing);
  }
  const bool groups = kv.filing == "groups" && kv.ring != 0;
  const std::int64_t times = groups ? (*std::max_element(kv.slots.begin(), kv.slots.end()) - 1) / kv.ring : 1;
  if (rows * times <= rows_of(&buffer)) return;
  out.push_back(part.name + ": " + str(times) + " x " + str(rows) + " rows exceed " + str(rows_of(&buffer)) + " of " +
                buffer.name);
}

// Buffers that a graph writes whole, and rows that it makes for some of them.
void written_problems(const Kv& kv, const Stage& stage, const Buffers& buffers, Found& out) {
  static const std::vector<std::pair<std::string, Stages>> sides = {
      {"present_", kWhole}, {"flushed_", {names::FLUSH}}, {"kept_", {names::COMPACT}}};
  for (const auto& tensor : stage.outputs) {
    const auto side = std::find_if(sides.begin(), sides.end(), [&](const auto& s) { return begins(tensor.name, s.first); });
    if (side == sides.end()) {
      const bool alone = stage.stage == names::FLUSH || stage.stage == names::COMPACT;
      if (alone) out.push_back(tensor.name + " is nothing that " + stage.stage + " makes");
      continue;
    }
    if (side->second.count(stage.stage) == 0) out.push_back(tensor.name + " is made by " + stage.stage);
    const bool whole = side->first == "present_";
    const std::string past = "past_" + tensor.name.substr(side->first.size());
    const Tensor* buffer = find(buffers, side->first == "kept_" ? layered(past, stage.layer.value_or(0)) : past);
    add_misfit(tensor, buffer, whole, out);
    if (!whole && buffer != nullptr && tensor.shape.size() > 2) part_problems(kv, stage, tensor, *buffer, out);
  }
}

// The buffers that the host writes rows to, which flush makes.
std::set<std::string> filed_of(const Manifest& manifest, const std::string& flavour) {
  static const std::string kFlushed = "flushed_";
  std::set<std::string> out;
  for (const auto& stage : manifest.stages) {
    if (stage.stage != names::FLUSH || stage.flavour != flavour) continue;
    for (const auto& tensor : stage.outputs) {
      if (rows_of(&tensor) != 0 && begins(tensor.name, kFlushed)) out.insert("past_" + tensor.name.substr(kFlushed.size()));
    }
  }
  return out;
}

// Whether every step writes this buffer: all, or the ring and what no flush will write.
bool is_of_steps(const Kv& kv, const std::string& name, const std::set<std::string>& filed) {
  if (kv.ring == 0 || begins(name, "past_ring_")) return true;
  if (kv.filing == "groups") return filed.count(name) == 0;
  const std::string kind = name.substr(0, name.rfind('_'));
  return kv.filing == "none" && (kind == "past_key" || kind == "past_value");
}

// A ring goes into groups of as many rows, or is divided between the tiers. Values may leave it one by one instead,
// into what every step writes.
void flush_problems(const Kv& kv, std::int64_t layer, const Buffers& own, const Buffers& made, Found& out) {
  const auto rows = [&](const std::string& kind) {
    return own.count(kind) != 0 ? rows_of(find(made, layered("flushed_" + kind, layer))) : 0;
  };
  for (const char* side : {"key", "value"}) {
    std::int64_t filed = 0;
    for (const auto& tier : tiers_of(kv)) filed += rows(tier + side);
    const bool by_steps = side == std::string("value") && kv.filing == "groups" && filed == 0;
    if (filed == kv.ring || by_steps) continue;
    out.push_back("files " + str(filed) + " rows of " + side + " " + str(layer) + ", and $.kv.ring is " + str(kv.ring));
  }
  const std::int64_t groups = rows_of(find(own, "key")) / std::max<std::int64_t>(1, kv.ring);
  for (const auto& [kind, buffer] : own) {
    if (kv.filing == "groups" && rows(kind) != 0 && rows(kind) * groups != rows_of(&buffer)) {
      out.push_back(str(rows(kind)) + " rows of " + layered("flushed_" + kind, layer) + " are not one of " + str(groups) +
                    " groups");
    }
    for (const auto& tier : kv.filing == "groups" ? Found{} : tiers_of(kv)) {
      const std::int64_t wanted = rows(tier + "key"), slots = rows_of(find(own, tier + "key"));
      const bool of_rows = kind == tier + "value" || (rows_of(&buffer) == slots && slots > 1);
      if (!begins(kind, tier) || !(of_rows || rows(kind) != 0) || rows(kind) == wanted) continue;
      out.push_back(layered("flushed_" + kind, layer) + " has " + str(rows(kind)) + " rows, not " + str(wanted));
    }
  }
}

// Rows that nobody makes: a later step would read what was there before.
void missing_problems(const Manifest& m, const Stage& stage, const Buffers& buffers, Layers& layers, Found& out) {
  Buffers made;
  for (const auto& tensor : stage.outputs) made[tensor.name] = tensor;
  Found wanted, missing;
  if (stage.stage == names::COMPACT) {
    for (const auto& [kind, buffer] : layers[stage.layer.value_or(0)]) wanted.push_back("kept_" + kind);
  } else if (stage.stage == names::FLUSH) {
    for (std::int64_t layer = 0; layer < m.kv.layers; ++layer) flush_problems(m.kv, layer, layers[layer], made, out);
  } else if (kWhole.count(stage.stage) != 0) {
    const auto [first, stop] = layers_of(m, stage);
    const auto filed = filed_of(m, stage.flavour);
    for (const auto& [name, buffer] : buffers) {
      const std::int64_t number = number_of(name);
      const bool mine = stop - first == m.kv.layers || (first <= number && number < stop);
      const bool written = stage.stage != "decode" || is_of_steps(m.kv, name, filed);
      if (mine && written) wanted.push_back("present_" + name.substr(5));
    }
  }
  for (const auto& name : wanted) {
    if (made.count(name) == 0 && missing.size() < 4) missing.push_back(name);
  }
  if (!missing.empty()) out.push_back("does not make " + join(missing, ", "));
}

}  // namespace

bool is_buffer(const std::string& name) { return begins(name, "past_") && name != names::PAST_LENGTHS; }

bool is_unpacked(const std::string& name) { return begins(name, names::UNPACKED); }

std::string layered(const std::string& name, std::int64_t layer) { return name + "_" + std::to_string(layer); }

Buffers list_buffers(const Manifest& m, const std::string& flavour) {
  Buffers out;
  for (const auto& stage : m.stages) {
    if (stage.stage != "decode" || stage.flavour != flavour) continue;
    for (const auto& tensor : stage.inputs) {
      if (is_buffer(tensor.name)) out[tensor.name] = tensor;
    }
  }
  return out;
}

std::pair<std::int64_t, std::int64_t> layers_of(const Manifest& m, const Stage& stage) {
  if (kInPrefill.count(stage.stage) == 0) return {0, m.kv.layers};
  const std::int64_t first = stage.layer.value_or(0);
  const auto next = std::upper_bound(m.exits.begin(), m.exits.end(), first);
  return {first, next == m.exits.end() ? m.kv.layers : *next};
}

void require_buffers(const Manifest& m, const std::string& flavour) {
  const Buffers buffers = list_buffers(m, flavour);
  Layers layers = by_layer(buffers);
  Found out;
  for (const auto& [name, buffer] : buffers) {
    const std::int64_t number = number_of(name);
    if (number >= 0 && (number < m.kv.layers || begins(name, kMemory))) continue;
    out.push_back(name + " is of none of " + str(m.kv.layers) + " layers");
  }
  const bool remembers = std::any_of(buffers.begin(), buffers.end(), [](const auto& b) { return begins(b.first, kMemory); });
  if (remembers && (!m.kv.keep.empty() || m.kv.reuse == "rewind" || m.prefill_method != "none")) {
    out.push_back("a convolution remembers rows that the cache gives up, or takes back");
  }
  for (std::size_t layer = 0; layer < m.kv.slots.size(); ++layer) {
    layer_problems(m.kv, layer, layers[static_cast<std::int64_t>(layer)], out);
  }
  for (const auto& stage : m.stages) {
    if (stage.flavour != flavour) continue;
    Found own;
    read_problems(stage, buffers, own);
    written_problems(m.kv, stage, buffers, own);
    missing_problems(m, stage, buffers, layers, own);
    for (const auto& problem : own) out.push_back(stage.file + ": " + problem);
  }
  if (out.size() > kShown) out.resize(kShown);
  if (!out.empty()) throw bundle_error("KV cache of the " + flavour + " graphs: " + join(out, "; ") + "; export again");
}

}  // namespace edgetok_impl
