// edgetok-cpp inspect BUNDLE: opens a bundle, admits every graph of it and says what it holds.
#include <cstdio>
#include <cstring>

#include "edgetok/edgetok.hpp"

namespace {

int inspect(const char* path) {
  const edgetok::Bundle bundle(path);
  bundle.check();
  const edgetok_bundle_info info = bundle.describe();
  std::printf("%s, method %s, weights %s, KV cache %s\n", info.family, info.method, info.weights, info.kv);
  std::printf("digest %s\n", info.digest);
  for (const edgetok_rung& rung : bundle.rungs()) {
    std::printf("rung %lld: %lld prompt tokens, %lld new tokens\n", static_cast<long long>(rung.budget),
                static_cast<long long>(rung.prompt_tokens), static_cast<long long>(rung.new_tokens));
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count != 3 || std::strcmp(words[1], "inspect") != 0) {
    std::fprintf(stderr, "usage: edgetok-cpp inspect BUNDLE\n");
    return EDGETOK_USAGE;
  }
  try {
    return inspect(words[2]);
  } catch (const edgetok::Failure& failure) {
    std::fprintf(stderr, "edgetok-cpp: %s\n", failure.what());
    return failure.status();
  }
}
