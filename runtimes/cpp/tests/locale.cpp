// The same bundle and question under the locale C and under another one, whose decimals have commas.
//
// locale BUNDLE PICTURE "IDS BEFORE" "IDS AFTER" TABLE LOCALE
#include <clocale>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <locale>

#include "asked.hpp"

namespace {

Bytes read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// What is read and said anywhere that numbers are written in words.
std::string ask(char** words) {
  const edgetok::Bundle bundle(words[1]);
  bundle.check();
  edgetok::Model model = load(bundle);
  const Bytes file = read_file(words[2]), table = read_file(words[5]);
  const auto image = model.image(file.data(), file.size());
  auto request = EDGETOK_INIT(edgetok_request);
  const std::string json(table.begin(), table.end());
  request.table = json.c_str();
  request.max_ttft_ms = 0.75;
  const auto prompt = read_prompt(words[3], words[4]);
  std::string out = std::string("digest ") + bundle.describe().digest + "\n";
  for (const float value : image.pixels()) out += std::to_string(static_cast<long>(value * 1e6F)) + " ";
  out += "\n" + describe(model.generate(image, prompt)) + describe(model.generate(image, prompt, request));
  const bool is_known = model.memory().resident_bytes > 0;
  request.max_ttft_ms = -0.5;
  const bool refused = is_refused(EDGETOK_USAGE, [&] { model.generate(image, prompt, request); });
  require(refused && is_known, "a negative limit is refused, and memory is known");
  return out + edgetok_message() + "\n";
}

}  // namespace

int main(int count, char** words) {
  if (count != 7) {
    std::fprintf(stderr, "usage: locale BUNDLE PICTURE \"IDS BEFORE\" \"IDS AFTER\" TABLE LOCALE\n");
    return EDGETOK_USAGE;
  }
  try {
    const std::string plain = ask(words);
    std::locale::global(std::locale(words[6]));  // sets C's too
    const char* sign = std::localeconv()->decimal_point;  // NOLINT(concurrency-mt-unsafe): the only thread
    require(*sign != '.', "this locale writes decimals with another sign");
    const std::string other = ask(words);
    std::printf("%s", plain.c_str());
    require(other == plain, "a locale changes nothing:\n" + other);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "locale: %s\n", error.what());
    return 1;
  }
}
