// Several questions about one picture: each line of standard input has the token ids of a turn.
//
//     04_talk BUNDLE IMAGE.jpg "IDS BEFORE" [TEMPERATURE [SEED]] < turns
//
// The first line is what stands behind the image, each later one what stands between an answer
// without its stop token and the next answer.
#include <edgetok/edgetok.hpp>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

namespace {

std::vector<std::int64_t> read_ids(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::int64_t>(words), std::istream_iterator<std::int64_t>()};
}

void talk(int count, char** words) {
  std::ifstream file(words[2], std::ios::binary);
  const std::vector<char> data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const edgetok::Bundle bundle(words[1]);
  edgetok::Model model(bundle);
  const edgetok::Image image = model.image(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
  edgetok::Conversation conversation = model.converse(image);
  auto request = EDGETOK_INIT(edgetok_request);
  if (count > 4) request.temperature = std::strtod(words[4], nullptr);
  if (count > 5) request.seed = std::strtoull(words[5], nullptr, 10);
  edgetok::Prompt prompt;
  prompt.before = read_ids(words[3]);
  for (std::string line; std::getline(std::cin, line); prompt.before.clear()) {
    prompt.after = read_ids(line);
    const edgetok::Answer answer = conversation.ask(prompt, request, [](std::int64_t token) {
      std::cout << token << ' ' << std::flush;
      return true;
    });
    std::cout << '\n';
    std::cerr << answer.reused() << " rows reused, first token after " << answer.timings().ttft_ms << " ms; "
              << conversation.tokens_left() << " tokens left after " << conversation.turns() << " turns\n";
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    std::cerr << "usage: " << words[0] << " BUNDLE IMAGE \"IDS BEFORE\" [TEMPERATURE [SEED]] < turns\n";
    return EDGETOK_USAGE;
  }
  try {
    talk(count, words);
    return 0;
  } catch (const edgetok::Failure& failure) {
    std::cerr << failure.what() << '\n';
    return failure.status();
  }
}
