// From signals and measurements to a rung, with the reason in words; bit for bit as in Python.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "tokens.hpp"

namespace edgetok_impl {

// The sum of a scorer, added up in the order that docs/bundle-format.md gives; infinite where a
// signal is missing or not finite.
double score(const Scorer& scorer, const Signals& signals, const Ids& question);

// Asked how sure an answer is: nothing to take it, or the rung to ask next.
struct Decision {
  std::int64_t budget = 0;
  std::string reason;
  std::function<std::optional<Decision>(const Signals& answer)> review;
};

struct Row {  // what `edgetok bench` measured of a rung
  std::int64_t budget = 0;
  double ttft_ms_p95 = 0, memory_mib = 0;
};

struct Limits {
  std::vector<Row> rows;
  double max_ttft_ms = 0, max_memory_mib = 0;  // 0: none
};

// Reads a table of `edgetok bench`; throws Error(usage) if it is of another bundle or malformed.
std::vector<Row> parse_table(const std::string& json, const std::string& digest);

Decision choose_fixed(const std::vector<Rung>& ladder, std::int64_t budget);
Decision choose_largest(const std::vector<Rung>& ladder);
Decision choose_elbow(const std::vector<Rung>& ladder, const Signals& signals);
Decision choose_within(const std::vector<Rung>& ladder, const Limits& limits);
Decision choose_certified(const Controller& controller, const Signals& signals, const Ids& question);

// Repeats the decisions that the manifest tells; throws Error(bundle) where one differs.
void check_cases(const Controller& controller);

}  // namespace edgetok_impl
