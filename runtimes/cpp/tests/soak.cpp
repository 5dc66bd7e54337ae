// Many images of all kinds, cancelled at random points, with loads, frees and errors in between: what
// memory does meanwhile is printed, a line of "images,resident KiB" for every twentieth part.
//
// soak BUNDLE FOLDER "IDS BEFORE" "IDS AFTER" IMAGES [BAD BUNDLE ...]
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "asked.hpp"

namespace {

constexpr int kLines = 20, kReload = 20;  // a model is loaded anew with every so many images
constexpr std::int64_t kMostPixels = 200;

// Cancels one answer at a time from a thread of its own, some time after it was told to.
class Canceller {
 public:
  explicit Canceller(edgetok::Model& model) : thread_([this, &model] { watch(model); }) {}
  ~Canceller() {
    over_ = true;
    thread_.join();
  }
  Canceller(const Canceller&) = delete;
  Canceller& operator=(const Canceller&) = delete;

  void cancel_after(int microseconds) { wait_ = microseconds; }

 private:
  void watch(edgetok::Model& model) {
    while (!over_) {
      const int wait = wait_.exchange(-1);
      std::this_thread::sleep_for(std::chrono::microseconds(wait < 0 ? 50 : wait));
      if (wait >= 0) model.cancel();
    }
  }

  std::atomic<bool> over_{false};
  std::atomic<int> wait_{-1};
  std::thread thread_;
};

struct Counts {
  int whole = 0, by_callback = 0, by_thread = 0, errors = 0, models = 0, bundles = 0;
};

class Soak {
 public:
  Soak(const char* path, const char* folder, edgetok::Prompt prompt, std::vector<std::string> bad)
      : path_(path), bundle_(path), files_(read_files(folder)), prompt_(std::move(prompt)), bad_(std::move(bad)),
        model_(load(bundle_)), canceller_(model_) {}

  void run(int images) {
    std::printf("images,resident_kib\n");
    for (int i = 1; i <= images; ++i) {
      ask(i);
      open_and_free(i);
      provoke(i);
      if (i % std::max(1, images / kLines) == 0) std::printf("%d,%lld\n", i, resident_kib());
      std::fflush(stdout);
    }
    std::printf("whole %d, cancelled by callback %d, by thread %d; errors %d, models %d, bundles %d\n", counts_.whole,
                counts_.by_callback, counts_.by_thread, counts_.errors, counts_.models, counts_.bundles);
  }

 private:
  int up_to(int most) { return std::uniform_int_distribution<int>(0, most)(random_); }

  edgetok::Image make_image() {
    if (up_to(1) == 0) {
      const auto& file = files_[static_cast<std::size_t>(up_to(static_cast<int>(files_.size()) - 1))];
      return model_.image(file.data(), file.size());
    }
    return model_.image(make_frame(random_, kMostPixels).pixels);
  }

  void ask(int i) {
    const edgetok::Image image = make_image();
    auto request = EDGETOK_INIT(edgetok_request);
    const auto rungs = bundle_.rungs();
    request.budget = rungs[static_cast<std::size_t>(i) % rungs.size()].budget;
    const int way = i % 3, last = up_to(5);
    if (way == 2) canceller_.cancel_after(up_to(2000));
    int said = 0;
    const auto on_token = [&](std::int64_t) { return way != 1 || said++ < last; };
    const auto answer = model_.generate(image, prompt_, request, on_token);
    require(answer.budget() == request.budget, "the rung that was asked for answers");
    const bool cancelled = answer.stop() == EDGETOK_CANCELLED;
    counts_.whole += !cancelled;
    // An earlier thread's cancel may come late: it counts as one of a thread all the same.
    (way == 1 ? counts_.by_callback : counts_.by_thread) += cancelled;
  }

  void open_and_free(int i) {
    const edgetok::Bundle again(path_, true);
    require(again.describe().vocabulary == bundle_.describe().vocabulary, "a bundle reads the same again");
    ++counts_.bundles;
    if (i % kReload != 0) return;
    edgetok::Model model = load(again);
    model.generate(make_image(), prompt_);
    ++counts_.models;
  }

  // One error of each kind in turn; what was there before it stays usable.
  void provoke(int i) {
    const std::array<std::function<void()>, 6> errors = {
        [&] { send_damaged(); },
        [&] { expect(EDGETOK_INPUT, [&] { model_.generate(make_image(), long_prompt()); }); },
        [&] { expect(EDGETOK_INPUT, [&] { model_.generate(make_image(), {{-1}, {1}}); }); },
        [&] { expect(EDGETOK_USAGE, [&] { load(bundle_, -1); }); },
        [&] { expect(EDGETOK_INPUT, [&] { model_.image(EDGETOK_INIT(edgetok_pixels)); }); },
        [&] { open_bad(i); },
    };
    errors[static_cast<std::size_t>(i) % errors.size()]();
    ++counts_.errors;
  }

  void expect(edgetok_status status, const std::function<void()>& work) {
    const bool refused = is_refused(status, work);
    require(refused, "status " + std::to_string(status) + ", not: " + edgetok_message());
  }

  // Half of a file: what its decoder had begun must go.
  void send_damaged() {
    const auto& file = files_[static_cast<std::size_t>(up_to(static_cast<int>(files_.size()) - 1))];
    const Bytes half(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(file.size() / 2));
    expect(EDGETOK_INPUT, [&] { model_.image(half.data(), half.size()); });
  }

  edgetok::Prompt long_prompt() const {
    edgetok::Prompt prompt = prompt_;
    prompt.after.resize(100000, prompt_.after.at(0));
    return prompt;
  }

  void open_bad(int i) {
    if (bad_.empty()) return;
    const auto& path = bad_[static_cast<std::size_t>(i / 6) % bad_.size()];
    expect(EDGETOK_BUNDLE, [&] { load(edgetok::Bundle(path)); });
  }

  static long long resident_kib() {
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);) {
      if (line.rfind("VmRSS:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10);
    }
    return -1;
  }

  std::string path_;
  edgetok::Bundle bundle_;
  std::vector<Bytes> files_;
  edgetok::Prompt prompt_;
  std::vector<std::string> bad_;
  edgetok::Model model_;
  Canceller canceller_;
  std::mt19937 random_{7};
  Counts counts_;
};

}  // namespace

int main(int count, char** words) {
  if (count < 6) {
    std::fprintf(stderr, "usage: soak BUNDLE FOLDER \"IDS BEFORE\" \"IDS AFTER\" IMAGES [BAD BUNDLE ...]\n");
    return EDGETOK_USAGE;
  }
  try {
    Soak(words[1], words[2], read_prompt(words[3], words[4]), {words + 6, words + count}).run(read_count(words[5]));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "soak: %s\n", error.what());
    return 1;
  }
}
