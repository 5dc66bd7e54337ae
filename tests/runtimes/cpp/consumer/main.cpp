// Prints the tokens of an answer: consumer BUNDLE IMAGE "IDS BEFORE" "IDS AFTER"
#include <edgetok/edgetok.hpp>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

std::vector<std::int64_t> read_ids(const char* text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::int64_t>(words), {}};
}

int main(int count, char** words) try {
  if (count != 5) return EDGETOK_USAGE;
  const edgetok::Bundle bundle(words[1]);
  edgetok::Model model(bundle);
  std::ifstream file(words[2], std::ios::binary);
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  const auto image = model.image(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
  const auto answer = model.generate(image, {read_ids(words[3]), read_ids(words[4])});
  for (const auto token : answer.tokens()) std::cout << token << ' ';
  std::cout << '\n';
  return 0;
} catch (const edgetok::Failure& failure) {
  std::cerr << failure.what() << '\n';
  return failure.status();
}
