#include "rings.hpp"

#include <algorithm>

namespace edgetok_impl {

namespace {

constexpr std::int64_t kSalient = 3, kOf = 5;  // three rows of five go to ZipCache's high tier

struct Tier {
  const char* name;
  std::int64_t bits, slots;
};

std::int64_t slots_of(const Manifest& m) { return *std::max_element(m.kv.slots.begin(), m.kv.slots.end()); }

Place floats(Shape shape) { return {"float32", std::move(shape)}; }

// KIVI: keys have a range per channel of a group, values one per row and head.
Side kivi_groups(const Kv& kv, std::int64_t rows, std::int64_t bits) {
  const Place packed{"int8", Shape{1, kv.kv_heads, rows, kv.head_dim * bits / 8}};
  const Place of_group = floats({1, kv.kv_heads, rows / kv.ring, kv.head_dim});
  const Place of_row = floats({1, kv.kv_heads, rows, 1});
  return {{"key", packed},          {"value", packed},        {"key_least", of_group},
          {"key_step", of_group},   {"value_least", of_row},  {"value_step", of_row}};
}

RingShape kivi_shape(const Manifest& m, std::int64_t bits) {
  const Kv& kv = m.kv;
  const std::int64_t region = std::max<std::int64_t>(1, (slots_of(m) - 1) / kv.ring) * kv.ring;
  const Place row = floats({1, kv.kv_heads, kv.ring, kv.head_dim});
  RingShape out{kv.ring, kivi_groups(kv, region, bits), kivi_groups(kv, kv.ring, bits),
                {"ring_key", "ring_value"}, {"ring_key", "ring_value"}, false};
  out.buffers["ring_key"] = out.buffers["ring_value"] = row;
  return out;
}

std::int64_t count_salient(std::int64_t rows) { return (2 * kSalient * rows + kOf) / (2 * kOf); }

// Slots of each tier: enough for a prompt of any length and what may follow it.
std::vector<Tier> tiers_of(const Manifest& m) {
  std::int64_t prompt = 0, high = 0, low = 0;
  for (const auto& rung : m.ladder) prompt = std::max(prompt, rung.prefill_tokens());
  const std::int64_t slots = slots_of(m), added = count_salient(m.kv.ring);
  for (std::int64_t rows = 1; rows <= prompt; ++rows) {
    const std::int64_t times = std::max<std::int64_t>(0, slots - rows - 1) / m.kv.ring;
    high = std::max(high, count_salient(rows) + times * added);
    low = std::max(low, rows - count_salient(rows) + times * (m.kv.ring - added));
  }
  return {{"high", 4, high}, {"low", 2, low}};
}

void add_tier(Side& side, const Kv& kv, const Tier& tier, std::int64_t rows) {
  const std::string name = tier.name;
  const Place packed{"int8", Shape{1, kv.kv_heads, rows, kv.head_dim * tier.bits / 8}};
  const Place of_row = floats({1, kv.kv_heads, rows, 1});
  side[name + "_key"] = side[name + "_value"] = packed;
  side[name + "_value_least"] = side[name + "_value_step"] = of_row;
}

RingShape zip_shape(const Manifest& m) {
  const Kv& kv = m.kv;
  RingShape out;
  out.ring = kv.ring;
  out.is_tiered = true;
  out.written = out.waiting = {"ring_key", "ring_value", "ring_score"};
  const std::int64_t salient = count_salient(kv.ring);
  for (const Tier& tier : tiers_of(m)) {
    add_tier(out.buffers, kv, tier, tier.slots);
    add_tier(out.group, kv, tier, tier.bits == 4 ? salient : kv.ring - salient);
    for (const char* kind : {"_key_least", "_key_step", "_divisor"}) {
      out.buffers[tier.name + std::string(kind)] = floats({1, kv.kv_heads, 1, kv.head_dim});
      out.waiting.insert(tier.name + std::string(kind));
    }
  }
  out.buffers["ring_key"] = out.buffers["ring_value"] = floats({1, kv.kv_heads, kv.ring, kv.head_dim});
  out.buffers["ring_score"] = floats({1, kv.kv_heads, kv.ring});
  out.buffers["filled"] = {"int32", Shape{2}};
  return out;
}

// ThinK: each step prunes the key that leaves the ring, so that nothing waits to be packed.
RingShape think_shape(const Manifest& m) {
  const Kv& kv = m.kv;
  const std::int64_t slots = slots_of(m);
  RingShape out;
  out.ring = kv.ring;
  out.written = {"key", "value", "ring_key"};
  out.buffers = {
      {"key", floats({1, kv.kv_heads, std::max<std::int64_t>(1, slots - kv.ring), kv.key_channels})},
      {"value", floats({1, kv.kv_heads, slots, kv.head_dim})},
      {"ring_key", floats({1, kv.kv_heads, kv.ring, kv.head_dim})},
      {"channels", {"int32", Shape{1, kv.kv_heads, kv.key_channels}}},
  };
  return out;
}

}  // namespace

std::optional<RingShape> ring_shape(const Manifest& m) {
  if (m.kv.ring == 0) return std::nullopt;
  if (m.kv_precision == "zipcache") return zip_shape(m);
  if (m.kv_precision == "think") return think_shape(m);
  return kivi_shape(m, m.kv_precision == "kivi4" ? 4 : 2);
}

}  // namespace edgetok_impl
