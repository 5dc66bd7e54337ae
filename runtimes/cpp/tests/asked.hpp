// What the programs here ask: a bundle, a prompt, and pictures of all kinds and sizes.
#pragma once

#include <edgetok/edgetok.hpp>

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

using Bytes = std::vector<std::uint8_t>;

// Ends the program with status 1 and a sentence unless `holds`.
void require(bool holds, const std::string& what);

// Runs work(number) in each of some threads.
template <class Work>
void in_threads(Work work, int count = 4) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) threads.emplace_back(work, i);
  for (auto& thread : threads) thread.join();
}

// Whether the work is refused with this status, and a sentence.
bool is_refused(edgetok_status status, const std::function<void()>& work);

int read_count(const char* word);

edgetok::Prompt read_prompt(const char* before, const char* after);

// The contents of the files in a folder, in the order of their names.
std::vector<Bytes> read_files(const std::string& folder);

// Pixels that an image can be made of while this lives.
struct Frame {
  Bytes bytes;
  edgetok_pixels pixels;
};

// A random frame of 17..`most` pixels a side, of any format, with rows that touch or do not.
Frame make_frame(std::mt19937& random, std::int64_t most);

edgetok::Model load(const edgetok::Bundle& bundle, int threads = 1);

// Everything that an answer says, timings apart.
std::string describe(const edgetok::Answer& answer);
