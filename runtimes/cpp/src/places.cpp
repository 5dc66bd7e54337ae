#include "places.hpp"

#include "rings.hpp"

namespace edgetok_impl {

namespace {

// So many rows of a layer: dtype and shape of a key or value.
Place rows_of(const Manifest& m, std::int64_t rows, const std::string& flavour) {
  const auto& kv = m.kv;
  if (m.kv_precision == "fp32") return {"float32", Shape{1, kv.kv_heads, rows, kv.head_dim}};
  if (m.kv_precision == "int8") return {"int8", Shape{1, kv.kv_heads, rows, kv.head_dim}};
  return {flavour == "ort" ? "uint8" : "int8", Shape{1, kv.kv_heads, rows, kv.head_dim / 2}};
}

bool has_slot_scales(const Manifest& m, const std::string& flavour) {
  return flavour == "portable" && m.kv_precision != "fp32";
}

}  // namespace

std::string layered(const std::string& name, std::int64_t layer) { return name + "_" + std::to_string(layer); }

std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  return __builtin_mul_overflow(a, b, &out) ? INT64_MAX : out;
}

Side layer_places(const Manifest& m, std::int64_t rows, const std::string& flavour, const std::string& prefix,
                  const std::string& suffix) {
  const Place row = rows_of(m, rows, flavour);
  Side out = {{prefix + "_key" + suffix, row}, {prefix + "_value" + suffix, row}};
  if (has_slot_scales(m, flavour)) {
    const Place scale{"float32", Shape{1, m.kv.kv_heads, rows, 1}};
    out[prefix + "_key_scale" + suffix] = scale;
    out[prefix + "_value_scale" + suffix] = scale;
  }
  if (!m.kv.planes.empty()) {
    const auto planes = static_cast<std::int64_t>(m.kv.planes.size());
    out[prefix + "_state" + suffix] = {"float32", Shape{planes, m.kv.kv_heads, rows}};
  }
  return out;
}

Side convolution_places(const Manifest& m, const std::string& prefix) {
  Side out;
  for (std::int64_t number = 0; number < m.kv.convolutions; ++number) {
    out[layered(prefix + "_convolution", number)] = {"float32", Shape{1, m.text.hidden, m.kv.kernel - 1}};
  }
  return out;
}

Side cache_places(const Manifest& m, const std::string& flavour, const std::string& prefix) {
  const auto rings = ring_shape(m);
  Side out;
  for (std::int64_t layer = 0; layer < m.kv.layers; ++layer) {
    if (rings) {
      for (const auto& [kind, place] : rings->buffers) out[layered(prefix + "_" + kind, layer)] = place;
    } else {
      out.merge(layer_places(m, m.kv.slots[static_cast<std::size_t>(layer)], flavour, prefix, layered("", layer)));
    }
  }
  out.merge(convolution_places(m, prefix));
  return out;
}

}  // namespace edgetok_impl
