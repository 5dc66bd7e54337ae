// edgetok-cpp inspect BUNDLE
//     opens a bundle, admits every graph of it and says what it holds
// edgetok-cpp measure [--packed] BUNDLE IMAGE "IDS BEFORE" "IDS AFTER" REPEATS [BUDGET ...]
//     answers at each rung that it loads, all without budgets; a line of JSON per rung
// edgetok-cpp ask BUNDLE IMAGE "QUESTION" [--text-library PATH] [--system TEXT] [--budget N]
//             [--max-new-tokens N] [--min-new-tokens N] [--temperature X] [--top-p X] [--top-k N]
//             [--repetition-penalty X] [--no-repeat-ngram-size N] [--seed N]
//     answers in words, as they come; PATH is libortextensions.so of onnxruntime-extensions, which
//     EDGETOK_TEXT_LIBRARY may name too. The other options are those of `edgetok run`: what is left
//     out is the model's own
#include <edgetok/edgetok.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Integers = std::vector<std::int64_t>;

int inspect(const char* path) {
  const edgetok::Bundle bundle(path);
  bundle.check();
  const edgetok_bundle_info info = bundle.describe();
  const bool answers = std::strcmp(info.task, "answer") == 0;
  std::printf("%s, method %s, weights %s, %s %s\n", info.family, info.method, info.weights,
              answers ? "KV cache" : "task", answers ? info.kv : info.task);
  std::printf("digest %s\n", info.digest);
  if (info.pictures != 1) std::printf("%lld pictures in a prompt\n", static_cast<long long>(info.pictures));
  for (const edgetok_rung& rung : bundle.rungs()) {
    if (!answers) std::printf("rung %lld\n", static_cast<long long>(rung.budget));
    if (!answers) continue;
    std::printf("rung %lld: %lld prompt tokens, %lld new tokens\n", static_cast<long long>(rung.budget),
                static_cast<long long>(rung.prompt_tokens), static_cast<long long>(rung.new_tokens));
  }
  return 0;
}

Integers read_ids(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::int64_t>(words), std::istream_iterator<std::int64_t>()};
}

template <typename Number>
Number read(const char* word, const char* kind) {
  const char* end = word + std::strlen(word);
  Number number = 0;
  const auto found = std::from_chars(word, end, number);
  if (found.ec == std::errc() && found.ptr == end) return number;
  throw std::invalid_argument(std::string(word) + " is no " + kind);
}

std::int64_t read_number(const char* word) { return read<std::int64_t>(word, "whole number"); }

double read_real(const char* word) { return read<double>(word, "number"); }

std::vector<std::uint8_t> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// A picture as often as a prompt has some, each prepared for itself.
edgetok::Image show(const edgetok::Model& model, const std::vector<std::uint8_t>& file, std::int64_t pictures) {
  if (pictures == 1) return model.image(file.data(), file.size());
  std::vector<edgetok::Image> shown;
  std::vector<const edgetok::Image*> each;
  shown.reserve(static_cast<std::size_t>(pictures));
  for (std::int64_t i = 0; i < pictures; ++i) shown.push_back(model.image(file.data(), file.size()));
  each.reserve(shown.size());
  for (const auto& picture : shown) each.push_back(&picture);
  return model.image(each);
}

struct Question {
  const std::vector<std::uint8_t>& file;
  std::int64_t pictures;
  edgetok::Prompt prompt;
};

void measure_rung(edgetok::Model& model, const Question& question, std::int64_t budget, std::int64_t repeats) {
  std::vector<double> ttft, decode;
  auto request = EDGETOK_INIT(edgetok_request);
  request.budget = budget;
  for (std::int64_t i = 0; i < repeats; ++i) {
    const edgetok::Image image = show(model, question.file, question.pictures);
    model.forget();  // the same question again would find its rows in the cache
    const edgetok::Answer answer = model.generate(image, question.prompt, request);
    const edgetok_timings timings = answer.timings();
    const auto steps = static_cast<double>(answer.tokens().size()) - 1;
    ttft.push_back(timings.preprocess_ms + timings.ttft_ms);
    if (steps > 0) decode.push_back(timings.decode_ms / steps);
  }
  const edgetok_memory memory = model.memory();
  std::printf("{\"budget\": %lld, \"ttft_ms\": %.3f, \"decode_ms\": %.3f, \"resident_bytes\": %lld, "
              "\"cache_bytes\": %lld}\n",
              static_cast<long long>(budget), median(ttft), median(decode),
              static_cast<long long>(memory.resident_bytes), static_cast<long long>(memory.cache_bytes));
}

int say_usage() {
  std::fprintf(stderr,
               "usage: edgetok-cpp inspect BUNDLE\n"
               "       edgetok-cpp measure [--packed] BUNDLE IMAGE \"IDS BEFORE\" \"IDS AFTER\" REPEATS [BUDGET ...]\n"
               "       edgetok-cpp ask BUNDLE IMAGE \"QUESTION\" [--text-library PATH] [--system TEXT] [--budget N]\n"
               "           [--max-new-tokens N] [--min-new-tokens N] [--temperature X] [--top-p X] [--top-k N]\n"
               "           [--repetition-penalty X] [--no-repeat-ngram-size N] [--seed N]\n");
  return EDGETOK_USAGE;
}

int measure(int count, char** words) {
  const bool packed = std::strcmp(words[2], "--packed") == 0;
  if (packed) ++words, --count;
  if (count < 7) return say_usage();
  const edgetok::Bundle bundle(words[2]);
  const auto file = read_file(words[3]);
  const Question question{file, bundle.describe().pictures, {read_ids(words[4]), read_ids(words[5])}};
  Integers budgets;
  for (int i = 7; i < count; ++i) budgets.push_back(read_number(words[i]));
  auto options = EDGETOK_INIT(edgetok_load_options);
  options.budgets = budgets.data();
  options.budget_count = budgets.size();
  if (budgets.empty()) options.budgets = nullptr;
  options.packed = packed ? 1 : 0;
  edgetok::Model model(bundle, options);
  for (const edgetok_rung& rung : bundle.rungs()) {
    const bool loaded = budgets.empty() || std::count(budgets.begin(), budgets.end(), rung.budget) != 0;
    if (loaded) measure_rung(model, question, rung.budget, read_number(words[6]));
  }
  return 0;
}

struct Asked {
  edgetok_request request = EDGETOK_INIT(edgetok_request);
  std::string library, system;
};

// Here 0 is a number of its own, in the library it is the model's own value.
std::int64_t or_none(std::int64_t number) {
  if (number < 0) throw std::invalid_argument(std::to_string(number) + " is negative; 0 is none");
  return number == 0 ? -1 : number;
}

double above_zero(const std::string& option, double number) {
  if (number > 0) return number;
  throw std::invalid_argument(option + " " + std::to_string(number) + " is not above 0");
}

void read_option(Asked& asked, const std::string& option, const char* word) {
  edgetok_request& request = asked.request;
  if (option == "--text-library") asked.library = word;
  else if (option == "--system") asked.system = word;
  else if (option == "--budget") request.budget = read_number(word);
  else if (option == "--max-new-tokens") request.max_new_tokens = read<std::int32_t>(word, "whole number");
  else if (option == "--min-new-tokens") request.min_new_tokens = or_none(read_number(word));
  else if (option == "--temperature") request.temperature = read_real(word);
  else if (option == "--top-p") request.top_p = above_zero(option, read_real(word));
  else if (option == "--top-k") request.top_k = or_none(read_number(word));
  else if (option == "--repetition-penalty") request.repetition_penalty = above_zero(option, read_real(word));
  else if (option == "--no-repeat-ngram-size") request.no_repeat_ngram_size = or_none(read_number(word));
  else if (option == "--seed") request.seed = read<std::uint64_t>(word, "whole number from 0 on");
  else throw std::invalid_argument("there is no option " + option);
}

Asked read_options(int count, char** words) {
  Asked asked;
  const char* named = std::getenv("EDGETOK_TEXT_LIBRARY");  // NOLINT(concurrency-mt-unsafe): one thread
  if (named != nullptr) asked.library = named;
  for (int i = 5; i < count; i += 2) read_option(asked, words[i], words[i + 1]);
  return asked;
}

void print(const std::string& piece) {
  std::fwrite(piece.data(), 1, piece.size(), stdout);
  std::fflush(stdout);
}

int ask(int count, char** words) {
  const Asked asked = read_options(count, words);
  const edgetok::Bundle bundle(words[2]);
  const edgetok::Text text(bundle, asked.library);
  const edgetok::Prompt prompt = asked.system.empty() ? text.encode(words[4]) : text.encode(words[4], asked.system);
  const auto file = read_file(words[3]);
  edgetok::Model model(bundle);
  edgetok::Decoder decoder = text.decoder();
  const edgetok::Image image = model.image(file.data(), file.size());
  model.generate(image, prompt, asked.request, [&](std::int64_t token) {
    print(decoder.push(token));
    return true;
  });
  print(decoder.flush() + "\n");
  return 0;
}

int run(int count, char** words) {
  if (count == 3 && std::strcmp(words[1], "inspect") == 0) return inspect(words[2]);
  if (count >= 7 && std::strcmp(words[1], "measure") == 0) return measure(count, words);
  if (count >= 5 && count % 2 == 1 && std::strcmp(words[1], "ask") == 0) return ask(count, words);
  return say_usage();
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const edgetok::Failure& failure) {
    std::fprintf(stderr, "edgetok-cpp: %s\n", failure.what());
    return failure.status();
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "edgetok-cpp: %s\n", error.what());
    return EDGETOK_USAGE;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "edgetok-cpp: %s\n", error.what());
    return EDGETOK_INTERNAL;
  }
}
