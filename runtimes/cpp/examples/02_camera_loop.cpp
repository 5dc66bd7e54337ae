// The same question about every frame of a folder, as a camera would deliver them.
//
//     02_camera_loop BUNDLE FOLDER "1 32 7" "45 9 2 13"
//
// A frame that repeats the one before it is not encoded again: the image keeps what the tower made
// of it, and each answer starts from there.
#include <edgetok/edgetok.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

namespace {

using Bytes = std::vector<std::uint8_t>;

std::vector<std::int64_t> read_ids(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::int64_t>(words), std::istream_iterator<std::int64_t>()};
}

Bytes read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::filesystem::path> list_frames(const std::string& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

void answer_all(char** words) {
  const edgetok::Bundle bundle(words[1]);
  edgetok::Model model(bundle);
  const edgetok::Prompt prompt{read_ids(words[3]), read_ids(words[4])};
  Bytes shown;
  std::optional<edgetok::Image> image;
  for (const auto& frame : list_frames(words[2])) {
    Bytes data = read_file(frame);
    if (!image || data != shown) image = model.image(data.data(), data.size());
    shown = std::move(data);
    const edgetok::Answer answer = model.generate(*image, prompt);
    std::printf("%s: %zu tokens, tower %.1f ms, first token after %.1f ms:", frame.filename().c_str(),
                answer.tokens().size(), answer.timings().tower_ms, answer.timings().ttft_ms);
    for (const auto token : answer.tokens()) std::printf(" %lld", static_cast<long long>(token));
    std::printf("\n");
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 5) {
    std::fprintf(stderr, "usage: %s BUNDLE FOLDER \"IDS BEFORE\" \"IDS AFTER\"\n", words[0]);
    return EDGETOK_USAGE;
  }
  try {
    answer_all(words);
    return 0;
  } catch (const edgetok::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return failure.status();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EDGETOK_INPUT;
  }
}
