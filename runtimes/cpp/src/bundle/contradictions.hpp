// What manifests of both kinds must agree with themselves about, each problem a sentence.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"

namespace edgetok_impl {

using Integers = std::vector<std::int64_t>;
using Found = std::vector<std::string>;

bool rises(const Integers& values);  // strictly

Integers budgets_of(const Manifest& manifest);

// Files that cannot be, and those that are missing.
void file_problems(const Manifest& manifest, const std::vector<std::string>& needed, Found& out);

// Tensors of a graph that are listed twice.
void tensor_problems(const Stage& stage, Found& out);

// Each rung must find exactly one graph: one of its own, or one that all rungs share.
void serving_problems(const Manifest& manifest, const std::string& flavour, const std::string& name, Found& out);

}  // namespace edgetok_impl
