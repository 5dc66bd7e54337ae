// edgetok's C++ library as a contestant of benchmarks/peers.py: what run_edgetok.py is for Python.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <edgetok/edgetok.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

namespace {

using nlohmann::json;

double cpu_ms() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto ms = [](const timeval& t) { return 1e3 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_usec); };
  return ms(used.ru_utime) + ms(used.ru_stime);
}

double wall_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Clock {
  double cpu = cpu_ms(), wall = wall_ms();
  void read(json& out, const std::string& name, double steps = 1) const {
    out[name + "_cpu_ms"] = (cpu_ms() - cpu) / steps;
    out[name + "_wall_ms"] = (wall_ms() - wall) / steps;
  }
};

std::int64_t private_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  std::int64_t kib = 0, sum = 0;
  for (std::string line, name; std::getline(file, line);) {
    std::istringstream words(line);
    if (words >> name >> kib && (name == "Private_Dirty:" || name == "Swap:")) sum += kib << 10;
  }
  return sum;
}

edgetok::Model load(const edgetok::Bundle& bundle, const json& options) {
  const auto budgets = options.value("budgets", std::vector<std::int64_t>{});
  auto asked = EDGETOK_INIT(edgetok_load_options);
  asked.threads = options["threads"].get<std::int32_t>();
  if (!budgets.empty()) asked.budgets = budgets.data();
  asked.budget_count = budgets.size();
  return edgetok::Model(bundle, asked);
}

std::vector<std::uint8_t> draw(unsigned seed, std::int64_t side) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> out(static_cast<std::size_t>(side * side * 3));
  for (auto& value : out) value = static_cast<std::uint8_t>(random());
  return out;
}

json answer(edgetok::Model& model, const json& question, const json& request) {
  const std::int64_t steps = request["steps"], side = question["side_px"];
  const auto noise = draw(request["seed"], side);
  const json& first = question["first"];
  const edgetok::Prompt prompt{first["before"], first["after"]};
  auto asked = EDGETOK_INIT(edgetok_request);
  asked.budget = request["tokens"];
  asked.max_new_tokens = static_cast<std::int32_t>(1 + steps);
  asked.min_new_tokens = 1 + steps;
  auto pixels = EDGETOK_INIT(edgetok_pixels);
  pixels.format = EDGETOK_RGB;
  pixels.width = pixels.height = side;
  pixels.data = noise.data();

  model.forget();
  json out;
  std::int64_t count = 0;
  Clock clock;
  const auto look = [&](std::int64_t) {
    if (count++ == 0) {
      clock.read(out, "first");
      clock = Clock();
    }
    return true;
  };
  const edgetok::Image image = model.image(pixels);
  model.generate(image, prompt, asked, look);
  if (steps > 0) clock.read(out, "decode", static_cast<double>(count - 1));
  out["rows"] = asked.budget + static_cast<std::int64_t>(prompt.before.size() + prompt.after.size());
  return out;
}

void serve(const json& options) {
  const json question = json::parse(std::ifstream(options["question"].get<std::string>()));
  const edgetok::Bundle bundle(options["model"].get<std::string>());
  edgetok::Model model = load(bundle, options);
  const json versions = {{"edgetok C++", edgetok_version()}};
  std::cout << json{{"loaded_cpu_ms", cpu_ms()}, {"loaded_bytes", private_bytes()}, {"versions", versions}} << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    json out = answer(model, question, json::parse(line));
    out["process_cpu_ms"] = cpu_ms();
    out["private_bytes"] = private_bytes();
    std::cout << out << std::endl;
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    if (count != 2) throw std::invalid_argument("usage: run_edgetok OPTIONS, as JSON");
    serve(json::parse(words[1]));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_edgetok: %s\n", error.what());
    return 1;
  }
}
