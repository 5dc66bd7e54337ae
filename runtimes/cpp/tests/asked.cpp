#include "asked.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <locale>
#include <sstream>

namespace {

std::vector<std::int64_t> read_ids(const char* text) {
  std::istringstream words(text);
  words.imbue(std::locale::classic());
  return {std::istream_iterator<std::int64_t>(words), std::istream_iterator<std::int64_t>()};
}

constexpr std::int64_t kLeast = 16;  // pixels a side

std::int64_t up_to(std::mt19937& random, std::int64_t most) {
  return std::uniform_int_distribution<std::int64_t>(1, most)(random);
}

}  // namespace

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what.c_str());
  std::exit(1);  // NOLINT(concurrency-mt-unsafe): the program is over
}

bool is_refused(edgetok_status status, const std::function<void()>& work) {
  try {
    work();
  } catch (const edgetok::Failure& failure) {
    return failure.status() == status && *failure.what() != '\0';
  }
  return false;
}

int read_count(const char* word) { return static_cast<int>(read_ids(word).at(0)); }

edgetok::Prompt read_prompt(const char* before, const char* after) { return {read_ids(before), read_ids(after)}; }

std::vector<Bytes> read_files(const std::string& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> out;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    out.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  require(!out.empty(), folder + " holds pictures");
  return out;
}

Frame make_frame(std::mt19937& random, std::int64_t most) {
  Frame frame{{}, EDGETOK_INIT(edgetok_pixels)};
  auto& pixels = frame.pixels;
  pixels.format = static_cast<edgetok_format>(up_to(random, 4) - 1);
  pixels.width = kLeast + up_to(random, most - kLeast);  // no strip that a bundle would refuse
  pixels.height = kLeast + up_to(random, most - kLeast);
  std::int64_t row = pixels.width * (pixels.format == EDGETOK_RGBA ? 4 : 3);
  std::int64_t rows = pixels.height;
  if (pixels.format == EDGETOK_NV12) {
    row = pixels.width + pixels.width % 2;
    pixels.stride = row;
    rows += (pixels.height + 1) / 2;
  } else if (up_to(random, 2) == 1) {
    row += up_to(random, 64);
    pixels.stride = row;
  }
  frame.bytes.resize(static_cast<std::size_t>(row * rows));
  for (auto& byte : frame.bytes) byte = static_cast<std::uint8_t>(random());
  pixels.data = frame.bytes.data();
  return frame;
}

edgetok::Model load(const edgetok::Bundle& bundle, int threads) {
  auto options = EDGETOK_INIT(edgetok_load_options);
  options.threads = threads;
  return {bundle, options};
}

std::string describe(const edgetok::Answer& answer) {
  std::string out;
  const auto list = [&](const char* name, const std::vector<std::int64_t>& ids) {
    out += name;
    for (const auto id : ids) out += " " + std::to_string(id);
    out += "\n";
  };
  list("tokens", answer.tokens());
  list("kept", answer.kept());
  list("tried", answer.tried());
  std::uint64_t margin = 0;  // its bits: a number in words would be a locale's
  const double value = answer.margin();
  std::memcpy(&margin, &value, sizeof margin);
  return out + "stop " + std::to_string(answer.stop()) + ": " + answer.reason() + "\nmargin " +
         std::to_string(margin) + "\n";
}
