// Which pictures of a folder are most alike, by the embeddings of a bundle without a language model.
//
//     03_embed BUNDLE FOLDER [PAIRS [BUDGET]]
//
// Prints the nearest pairs, five unless told, each with the cosine of its angle. The bundle's task is
// embed or similarity: edgetok export makes one of CLIP, SigLIP, DINOv2 and others.
#include <edgetok/edgetok.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

struct Embedded {
  std::string name;
  std::vector<float> direction;  // of length 1
};

struct Pair {
  double cosine;
  std::size_t first, second;
};

std::vector<std::uint8_t> read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::filesystem::path> list_files(const std::string& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

std::vector<float> normalised(std::vector<float> values) {
  const double length = std::sqrt(dot(values, values));
  if (length > 0) {
    for (float& value : values) value = static_cast<float>(static_cast<double>(value) / length);
  }
  return values;
}

// What is no picture is named and left out.
std::vector<Embedded> embed_all(edgetok::Encoder& encoder, const std::string& folder, std::int64_t budget) {
  std::vector<Embedded> out;
  for (const auto& path : list_files(folder)) {
    const auto data = read_file(path);
    try {
      const edgetok::Image image = encoder.image(data.data(), data.size());
      out.push_back({path.filename().string(), normalised(encoder.encode(image, budget).values())});
    } catch (const edgetok::Failure& failure) {
      const bool is_no_picture = failure.status() == EDGETOK_INPUT || data.empty();
      if (!is_no_picture) throw;
      std::fprintf(stderr, "%s: %s\n", path.filename().c_str(), failure.what());
    }
  }
  return out;
}

std::vector<Pair> compare_all(const std::vector<Embedded>& pictures) {
  std::vector<Pair> out;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    for (std::size_t j = i + 1; j < pictures.size(); ++j) {
      out.push_back({dot(pictures[i].direction, pictures[j].direction), i, j});
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const Pair& a, const Pair& b) { return a.cosine > b.cosine; });
  return out;
}

void print_pairs(const char* path, const char* folder, std::size_t most, std::int64_t budget) {
  const edgetok::Bundle bundle(path);
  if (std::strcmp(bundle.encoder().output, "embedding") != 0) {
    throw std::invalid_argument(std::string("this bundle's task is ") + bundle.encoder().task + ", not to embed");
  }
  edgetok::Encoder encoder(bundle);
  const auto pictures = embed_all(encoder, folder, budget);
  const auto pairs = compare_all(pictures);
  for (std::size_t i = 0; i < std::min(most, pairs.size()); ++i) {
    std::printf("%.6f %s %s\n", pairs[i].cosine, pictures[pairs[i].first].name.c_str(),
                pictures[pairs[i].second].name.c_str());
  }
}

std::int64_t read_count(const char* word) {
  const char* end = word + std::strlen(word);
  std::int64_t count = 0;
  const auto found = std::from_chars(word, end, count);
  if (found.ec == std::errc() && found.ptr == end && count >= 0) return count;
  throw std::invalid_argument(std::string(word) + " is no number of pairs or patches");
}

}  // namespace

int main(int count, char** words) {
  if (count < 3 || count > 5) {
    std::fprintf(stderr, "usage: %s BUNDLE FOLDER [PAIRS [BUDGET]]\n", words[0]);
    return EDGETOK_USAGE;
  }
  try {
    const std::int64_t pairs = count > 3 ? read_count(words[3]) : 5, budget = count > 4 ? read_count(words[4]) : 0;
    print_pairs(words[1], words[2], static_cast<std::size_t>(pairs), budget);
    return 0;
  } catch (const edgetok::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return failure.status();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EDGETOK_INPUT;
  }
}
