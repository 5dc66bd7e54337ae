// One encoder, one image and one output among threads, by the rules of edgetok.h.
//
// encoders BUNDLE FOLDER ROUNDS     a bundle that classifies
#include <atomic>
#include <cstdio>

#include "asked.hpp"

namespace {

std::string describe(const edgetok::Output& output) {
  std::string out = "budget " + std::to_string(output.budget());
  for (const auto& score : edgetok::rank_classes(output).scores()) out += " " + std::string(score.label);
  return out;
}

// Every call gives the same values, or is refused because another one runs.
void share_encoder(edgetok::Encoder& encoder, const edgetok::Image& image, int rounds) {
  const auto values = encoder.encode(image).values();
  std::atomic<int> answered{0}, refused{0};
  in_threads([&](int) {
    for (int i = 0; i < rounds; ++i) {
      try {
        require(encoder.encode(image).values() == values, "calls side by side do not disturb others");
        ++answered;
      } catch (const edgetok::Failure& failure) {
        require(failure.status() == EDGETOK_USAGE, failure.what());
        ++refused;
      }
    }
  });
  require(answered > 0 && answered + refused == 4 * rounds, "calls are answered or refused");
}

void prepare_meanwhile(edgetok::Encoder& encoder, const std::vector<Bytes>& files, int rounds) {
  in_threads([&](int) {
    for (int i = 0; i < rounds; ++i) {
      const auto& file = files[static_cast<std::size_t>(i) % files.size()];
      require(!encoder.image(file.data(), file.size()).pixels().empty(), "every thread prepares images");
      require(encoder.memory().buffers_bytes > 0, "and is told of memory");
    }
  });
}

void run(char** words) {
  const edgetok::Bundle bundle(words[1]);
  const auto files = read_files(words[2]);
  const int rounds = read_count(words[3]);
  edgetok::Encoder encoder(bundle);
  const auto image = encoder.image(files[0].data(), files[0].size());
  const auto output = encoder.encode(image);
  const std::string said = describe(output);
  share_encoder(encoder, image, rounds);
  in_threads([&](int) { require(describe(output) == said, "every thread reads and ranks the same output"); });
  prepare_meanwhile(encoder, files, rounds);
  std::printf("%s\n", said.c_str());
}

}  // namespace

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "usage: encoders BUNDLE FOLDER ROUNDS\n");
    return EDGETOK_USAGE;
  }
  try {
    run(words);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "encoders: %s\n", error.what());
    return 1;
  }
}
