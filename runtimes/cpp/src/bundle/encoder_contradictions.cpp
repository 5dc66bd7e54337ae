// What a well-formed manifest of an encoder may still say that cannot be.
#include <algorithm>
#include <cmath>
#include <set>

#include "bundle/contradictions.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

std::string str(std::int64_t value) { return std::to_string(value); }

// Of each task, what its output is called, how many dimensions it has, and whether one is of classes.
struct Task {
  const char* name;
  const char* output;
  std::size_t rank;
  bool labelled;
};

constexpr Task kTasks[] = {
    {"classify", names::LOGITS, 2, true},      {"embed", names::EMBEDDING, 2, false},
    {"similarity", names::EMBEDDING, 2, false}, {"depth", names::DEPTH, 3, false},
    {"segment", names::SCORES, 4, true},
};

const Task& task_of(const EncoderSide& encoder) {
  return *std::find_if(std::begin(kTasks), std::end(kTasks), [&](const Task& task) { return encoder.task == task.name; });
}

void ladder_problems(const Manifest& m, Found& out) {
  const auto& v = m.vision;
  const auto budgets = budgets_of(m);
  if (!rises(budgets)) out.push_back("$.ladder: budgets " + format_list(budgets) + " are not ascending and unique");
  if (budgets.back() > v.full_tokens) {
    out.push_back("$.ladder: budget " + str(budgets.back()) + " exceeds the " + str(v.full_tokens) + " full tokens");
  }
  // Up to 2^40 each: a double is exact enough to see that they differ, and does not overflow.
  const double tokens = static_cast<double>(v.grid[0]) * static_cast<double>(v.grid[1]);
  if (tokens != static_cast<double>(v.full_tokens) || v.parts != 1 || v.separators != 0) {
    out.push_back("$.vision.grid " + format_list(v.grid) + " is not full_tokens " + str(v.full_tokens) +
                  " of one part");
  }
  if (std::max(v.height_px, v.width_px) > limits::IMAGE_SIDE_PIXELS) {
    out.push_back("$.vision: an image side exceeds " + std::to_string(limits::IMAGE_SIDE_PIXELS) + " pixels");
  }
}

void output_problems(const EncoderSide& encoder, Found& out) {
  const Tensor& output = encoder.output;
  const Task& task = task_of(encoder);
  const std::string labels = "$.labels has " + std::to_string(encoder.labels.size()) + " names";
  const auto& shape = output.shape;
  if (output.name != task.output || output.dtype != "float32" || shape.size() != task.rank) {
    out.push_back("$.output " + output.name + " " + output.dtype + format_list(shape) + " does not go with the task");
  } else if (shape[0] != 1 || std::count(shape.begin(), shape.end(), 0) != 0) {
    out.push_back("$.output " + format_list(shape) + " is not of one picture");
  } else if (task.labelled && static_cast<std::int64_t>(encoder.labels.size()) != shape[1]) {
    out.push_back(labels + " for " + str(shape[1]) + " classes");
  }
  if (!task.labelled && !encoder.labels.empty()) out.push_back(labels + ", and " + encoder.task + " has no classes");
}

void text_problems(const EncoderSide& encoder, Found& out) {
  const auto& text = encoder.text;
  if (text.has_value() != (encoder.task == "similarity")) {
    out.push_back("$.text does not go with the task " + encoder.task);
  }
  if (text && !(std::isfinite(text->similarity.scale) && std::isfinite(text->similarity.bias))) {
    out.push_back("$.text.similarity: scale and bias must be finite");
  }
}

// What a runtime feeds and reads by name is there, in this shape.
void graph_problems(const Manifest& m, const Stage& stage, Found& out) {
  std::vector<Tensor> inputs, outputs;
  const auto& v = m.vision;
  if (stage.stage == names::ENCODE) {
    const Shape rows = stage.budget ? Shape{*stage.budget} : Shape{};
    inputs = {{names::PIXELS, "float32", {1, 3, v.height_px, v.width_px}}};
    outputs = {m.encoder->output, {names::KEPT, "int64", rows}, {names::SIZES, "float32", rows}};
  } else if (stage.stage == names::DESCRIBE && m.encoder->text) {
    inputs = {{names::TOKEN_IDS, "int64", {1, m.encoder->text->tokens}}};
    outputs = {{names::TEXT_EMBEDDING, "float32", m.encoder->output.shape}};
  } else {
    return;
  }
  if (stage.inputs == inputs && stage.outputs == outputs) return;
  out.push_back(stage.stage + " of rung " + (stage.budget ? str(*stage.budget) : "None") +
                " does not take and give what its task needs");
}

void stage_problems(const Manifest& m, std::size_t index, Found& out) {
  const Stage& stage = m.stages[index];
  const bool known = stage.stage == names::ENCODE || stage.stage == names::DESCRIBE;
  if (!known || stage.layer) {
    out.push_back("$.stages[" + std::to_string(index) + "] is " + stage.stage + ", which no encoder has");
  }
  tensor_problems(stage, out);
  graph_problems(m, stage, out);
}

void flavour_problems(const Manifest& m, const std::string& flavour, Found& out) {
  serving_problems(m, flavour, names::ENCODE, out);
  std::size_t found = 0, of_a_rung = 0;
  for (const auto& stage : m.stages) {
    if (stage.stage != names::DESCRIBE || stage.flavour != flavour) continue;
    ++found;
    of_a_rung += stage.budget ? 1 : 0;
  }
  const std::size_t wanted = m.encoder->text ? 1 : 0;
  if (found == wanted && of_a_rung == 0) return;
  out.push_back("$.stages: " + std::to_string(found) + " " + flavour + " graphs of describe, not " +
                std::to_string(wanted) + " for all rungs");
}

}  // namespace

std::vector<std::string> find_encoder_contradictions(const Manifest& m) {
  Found out;
  ladder_problems(m, out);
  output_problems(*m.encoder, out);
  text_problems(*m.encoder, out);
  std::vector<std::string> needed = {"processor/image.json"};
  if (m.encoder->text) needed.push_back("processor/tokenizer.json");
  file_problems(m, needed, out);
  for (std::size_t i = 0; i < m.stages.size(); ++i) stage_problems(m, i, out);
  std::set<std::string> flavours = {"ort"};
  for (const auto& stage : m.stages) flavours.insert(stage.flavour);
  for (const auto& flavour : flavours) flavour_problems(m, flavour, out);
  return out;
}

}  // namespace edgetok_impl
