// Uniform numbers: PCG64, seeded through a SeedSequence, both as NumPy documents them, so that a
// seed draws here what it draws in Python.
#pragma once

#include <cstdint>

namespace edgetok_impl {

class Pcg64 {
 public:
  explicit Pcg64(std::uint64_t seed);
  double uniform();  // of [0, 1)

 private:
  __extension__ using Wide = unsigned __int128;
  void advance();

  Wide state_ = 0, increment_ = 0;
};

}  // namespace edgetok_impl
