// What threads may do by the rules of edgetok.h, all at once: for ThreadSanitizer, and to be right.
//
// threads BUNDLE FOLDER "IDS BEFORE" "IDS AFTER" ROUNDS
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "asked.hpp"

namespace {

struct Asked {
  edgetok::Bundle bundle;
  std::vector<Bytes> files;
  edgetok::Prompt prompt;
  std::string answer;  // to the first file, by one thread alone

  edgetok::Image image(const edgetok::Model& model) const { return model.image(files[0].data(), files[0].size()); }
};

// An answer from the first row on: rows of an earlier one would give the same up to the last bits.
edgetok::Answer ask(const Asked& asked, edgetok::Model& model) {
  model.forget();
  return model.generate(asked.image(model), asked.prompt);
}

// Does `work` again and again in a thread of its own while this lives.
class Meanwhile {
 public:
  explicit Meanwhile(std::function<void()> work)
      : thread_([this, work = std::move(work)] {
          while (!over_) work();
        }) {}
  ~Meanwhile() {
    over_ = true;
    thread_.join();
  }
  Meanwhile(const Meanwhile&) = delete;
  Meanwhile& operator=(const Meanwhile&) = delete;

 private:
  std::atomic<bool> over_{false};
  std::thread thread_;
};

void share_bundle(const Asked& asked) {
  in_threads([&](int) {
    asked.bundle.check();
    require(!asked.bundle.rungs().empty(), "a bundle has rungs in every thread");
    require(std::string(asked.bundle.describe().digest).size() == 64, "its digest is read by every thread");
    edgetok::Model own = load(asked.bundle);
    require(describe(ask(asked, own)) == asked.answer, "each thread's model answers so");
  });
}

void share_answer(const Asked& asked, edgetok::Model& model) {
  const auto answer = ask(asked, model);
  in_threads([&](int) {
    require(describe(answer) == asked.answer, "every thread reads the same answer");
    require(answer.timings().ttft_ms > 0, "and its times");
  });
}

void tell_messages_apart() {
  in_threads([](int number) {
    const std::string name = "no bundle " + std::to_string(number);
    for (int i = 0; i < 100; ++i) {
      require(is_refused(EDGETOK_BUNDLE, [&] { edgetok::Bundle nothing(name); }), "there is no such bundle");
      require(std::string(edgetok_message()).find(name) != std::string::npos, "each thread has its own message");
    }
  });
}

void answer_side_by_side(const Asked& asked, int rounds) {
  in_threads([&](int number) {
    edgetok::Model own = load(asked.bundle, 1 + number % 2);
    for (int i = 0; i < rounds; ++i) {
      require(describe(ask(asked, own)) == asked.answer, "models do not disturb others");
    }
  }, 2);
}

// Every answer that another thread cancels is the beginning of the whole one.
void cancel_from_outside(const Asked& asked, edgetok::Model& model, int rounds) {
  const auto whole = ask(asked, model).tokens();
  int cancelled = 0;
  const Meanwhile canceller([&] {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    model.cancel();
  });
  for (int i = 0; i < 100 * rounds && cancelled < rounds; ++i) {
    const auto answer = ask(asked, model);
    const auto tokens = answer.tokens();
    require(tokens.size() <= whole.size(), "a cancelled answer is no longer");
    require(std::equal(tokens.begin(), tokens.end(), whole.begin()), "a cancelled answer begins as the whole one");
    cancelled += answer.stop() == EDGETOK_CANCELLED;
  }
  require(cancelled == rounds, "cancel ends answers");
}

// Calls that other threads may make, and one that they may not, while an answer is under way.
void call_meanwhile(const Asked& asked, edgetok::Model& model) {
  const auto image = asked.image(model);
  bool tried = false;
  const auto on_token = [&](std::int64_t) {
    if (tried) return true;
    tried = true;
    std::thread([&] {
      const auto other = asked.image(model);
      require(model.memory().cache_bytes > 0, "memory is told meanwhile");
      const bool refused = is_refused(EDGETOK_USAGE, [&] { model.generate(other, asked.prompt); });
      require(refused, "a second call is refused while one runs");
    }).join();
    return true;
  };
  model.forget();
  const auto answer = model.generate(image, asked.prompt, EDGETOK_INIT(edgetok_request), on_token);
  require(tried && describe(answer) == asked.answer, "the first answer is undisturbed");
}

void prepare_meanwhile(const Asked& asked, edgetok::Model& model, int rounds) {
  std::size_t next = 0;
  const Meanwhile camera([&] {
    const auto& file = asked.files[next++ % asked.files.size()];
    const auto frame = model.image(file.data(), file.size());
    require(!frame.pixels().empty() && model.memory().buffers_bytes > 0, "images are prepared meanwhile");
  });
  for (int i = 0; i < rounds; ++i) {
    require(describe(ask(asked, model)) == asked.answer, "answers do not notice");
  }
}

// The bundle goes while a model of it answers, then the model, and the answer stays.
void free_in_any_order(const char* path, const Asked& asked) {
  auto bundle = std::make_unique<edgetok::Bundle>(path);
  auto model = std::make_unique<edgetok::Model>(load(*bundle));
  std::thread freed([&] { bundle.reset(); });
  auto image = std::make_unique<edgetok::Image>(asked.image(*model));
  const auto answer = model->generate(*image, asked.prompt);
  freed.join();
  std::thread([&] { model.reset(); }).join();
  std::thread([&] { image.reset(); }).join();
  require(describe(answer) == asked.answer, "an answer outlives its model");
}

void run(char** words) {
  Asked asked{edgetok::Bundle(words[1]), read_files(words[2]), read_prompt(words[3], words[4]), {}};
  const int rounds = read_count(words[5]);
  edgetok::Model model = load(asked.bundle, 2);
  asked.answer = describe(ask(asked, model));
  share_bundle(asked);
  share_answer(asked, model);
  tell_messages_apart();
  answer_side_by_side(asked, rounds);
  cancel_from_outside(asked, model, rounds);
  call_meanwhile(asked, model);
  prepare_meanwhile(asked, model, rounds);
  free_in_any_order(words[1], asked);
  std::printf("%s", asked.answer.c_str());
}

}  // namespace

int main(int count, char** words) {
  if (count != 6) {
    std::fprintf(stderr, "usage: threads BUNDLE FOLDER \"IDS BEFORE\" \"IDS AFTER\" ROUNDS\n");
    return EDGETOK_USAGE;
  }
  try {
    run(words);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "threads: %s\n", error.what());
    return 1;
  }
}
