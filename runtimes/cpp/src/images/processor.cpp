#include "images/processor.hpp"

#include <cmath>

#include "bundle/schema.hpp"
#include "error.hpp"
#include "generated.hpp"

namespace edgetok_impl {

namespace {

const char kImage[] = "processor/image.json";

std::optional<std::int64_t> side(const Value& value) {
  return value.is_null() ? std::nullopt : std::optional(value.integer());
}

std::optional<Size> size(const Value& value) {
  if (value.is_null()) return std::nullopt;
  return Size{value.list()[0].integer(), value.list()[1].integer()};
}

std::array<double, 3> three(const Value& value) {
  return {value.list()[0].real(), value.list()[1].real(), value.list()[2].real()};
}

void require_side(const std::string& name, std::int64_t px) {
  if (px <= limits::IMAGE_SIDE_PIXELS) return;
  throw bundle_error(std::string(kImage) + ": " + name + " " + std::to_string(px) + " exceeds " +
                     std::to_string(limits::IMAGE_SIDE_PIXELS) + " pixels a side");
}

void require_sides(const std::string& name, const std::optional<Size>& size) {
  if (!size) return;
  require_side(name, size->height);
  require_side(name, size->width);
}

void require_canvas(const ImagePlan& plan) {
  if (!plan.tiles) return;
  if (!plan.resize_px) throw bundle_error(std::string(kImage) + ": tiles without resize_px have no size");
  require_side("the canvas of tiles", plan.tiles->rows);  // so that the products are small
  require_side("the canvas of tiles", plan.tiles->columns);
  const Size canvas{plan.tiles->rows * plan.resize_px->height, plan.tiles->columns * plan.resize_px->width};
  require_sides("the canvas of tiles", canvas);
  if (canvas.height * canvas.width > limits::IMAGE_PIXELS) {
    throw bundle_error(std::string(kImage) + ": a canvas of tiles has more than " +
                       std::to_string(limits::IMAGE_PIXELS) + " pixels");
  }
}

}  // namespace

ImagePlan parse_image_plan(const std::string& bytes) {
  Value v = parse_strict(bytes, kImage, limits::PROCESSOR_BYTES);
  apply(*image_plan_schema(), v, kImage);
  ImagePlan plan;
  plan.resize_shortest_px = side(v.at("resize_shortest_px"));
  plan.resize_longest_px = side(v.at("resize_longest_px"));
  plan.resize_px = size(v.at("resize_px"));
  plan.crop_px = size(v.at("crop_px"));
  plan.resample = v.at("resample").text();
  plan.rescale = v.at("rescale").real();
  plan.mean = three(v.at("mean"));
  plan.std = three(v.at("std"));
  if (const Value& tiles = v.at("tiles"); !tiles.is_null()) {
    const auto grid = size(tiles.at("grid"));
    plan.tiles = Tiles{grid->height, grid->width, tiles.at("fit").text() == "pad"};
  }
  if (const Value& rgb = v.at("square_rgb"); !rgb.is_null()) {
    plan.square_rgb.emplace();
    for (std::size_t i = 0; i < 3; ++i) (*plan.square_rgb)[i] = static_cast<std::uint8_t>(rgb.list()[i].integer());
  }
  if (plan.resize_shortest_px && plan.resize_px) {
    throw bundle_error(std::string(kImage) + ": resize_shortest_px and resize_px are both set; keep one");
  }
  for (const double value : {plan.rescale, plan.std[0], plan.std[1], plan.std[2]}) {
    if (std::isfinite(value) && value != 0) continue;
    throw bundle_error(std::string(kImage) + ": rescale and every std must be numbers other than 0");
  }
  require_side("resize_shortest_px", plan.resize_shortest_px.value_or(1));
  require_side("resize_longest_px", plan.resize_longest_px.value_or(1));
  require_sides("resize_px", plan.resize_px);
  require_sides("crop_px", plan.crop_px);
  require_canvas(plan);
  return plan;
}

}  // namespace edgetok_impl
