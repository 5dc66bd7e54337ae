#include "runtime/random.hpp"

#include <array>

namespace edgetok_impl {

namespace {

using Word = std::uint32_t;
using Words = std::array<Word, 4>;

// Hashes a stream of words; each one differently from those before it.
class Hash {
 public:
  Hash(Word constant, Word factor) : constant_(constant), factor_(factor) {}
  Word operator()(Word word) {
    word ^= constant_;
    constant_ *= factor_;
    word *= constant_;
    return word ^ (word >> 16);
  }

 private:
  Word constant_, factor_;
};

Word mix(Word left, Word right) {
  const Word mixed = 0xca01f9ddU * left - 0x4973f715U * right;
  return mixed ^ (mixed >> 16);
}

// A pool in which every bit of the seed has touched every word.
Words make_pool(std::uint64_t seed) {
  Hash hash(0x43b0d7e5U, 0x931e8875U);
  Words pool{};
  pool[0] = hash(static_cast<Word>(seed));
  pool[1] = hash(static_cast<Word>(seed >> 32));
  pool[2] = hash(0);
  pool[3] = hash(0);
  for (std::size_t from = 0; from < pool.size(); ++from) {
    for (std::size_t to = 0; to < pool.size(); ++to) {
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
    }
  }
  return pool;
}

std::array<std::uint64_t, 4> spread(std::uint64_t seed) {
  const Words pool = make_pool(seed);
  Hash hash(0x8b51f9ddU, 0x58f38dedU);
  std::array<std::uint64_t, 4> out{};
  for (std::size_t i = 0; i < 8; ++i) {
    out[i / 2] |= static_cast<std::uint64_t>(hash(pool[i % 4])) << (32 * (i % 2));
  }
  return out;
}

}  // namespace

Pcg64::Pcg64(std::uint64_t seed) {
  const auto words = spread(seed);
  const auto join = [&](std::size_t at) { return static_cast<Wide>(words[at]) << 64 | words[at + 1]; };
  increment_ = join(2) << 1 | 1;
  advance();
  state_ += join(0);
  advance();
}

void Pcg64::advance() {
  constexpr Wide factor = static_cast<Wide>(0x2360ed051fc65da4U) << 64 | 0x4385df649fccf645U;
  state_ = state_ * factor + increment_;
}

double Pcg64::uniform() {
  advance();
  const auto folded = static_cast<std::uint64_t>(state_ >> 64) ^ static_cast<std::uint64_t>(state_);
  const auto turn = static_cast<unsigned>(state_ >> 122);
  const std::uint64_t bits = folded >> turn | folded << ((64 - turn) & 63);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace edgetok_impl
