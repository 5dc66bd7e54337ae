#include "control/controller.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "bundle/schema.hpp"
#include "error.hpp"
#include "generated.hpp"
#include "text.hpp"

namespace edgetok_impl {

namespace {

std::string promise(const Controller& controller) {
  return "within the certified risk of " + format_number(100 * controller.risk, 3) + " % (" +
         format_number(100 * controller.confidence, 3) + " % sure)";
}

// The controller must outlive what is decided: it belongs to the bundle.
Decision find(std::size_t start, const Controller& controller, const Signals& signals, const Ids& question) {
  for (std::size_t i = start; i < controller.rules.size(); ++i) {
    const Rule& rule = controller.rules[i];
    if (!(score(rule.enter, signals, question) <= rule.enter_at_most)) continue;
    const std::string budget = std::to_string(rule.budget);
    const auto review = [i, &controller, signals, question](const Signals& answer) -> std::optional<Decision> {
      const Rule& entered = controller.rules[i];
      Signals all = answer;
      all.insert(signals.begin(), signals.end());
      if (score(entered.accept, all, question) <= entered.accept_at_most) return std::nullopt;
      return find(i + 1, controller, signals, question);
    };
    return {rule.budget, budget + " is the smallest rung " + promise(controller), review};
  }
  const std::string tried = start > 0 ? ", after a smaller rung was not sure enough" : "";
  return {controller.full,
          "no smaller rung than " + std::to_string(controller.full) + " " + promise(controller) + tried, {}};
}

struct Comparison {
  std::string what;
  double value, limit;
  std::string unit;
};

std::vector<Comparison> compare(const Row& row, const Limits& limits) {
  std::vector<Comparison> out;
  if (limits.max_ttft_ms > 0) out.push_back({"p95 time to first token", row.ttft_ms_p95, limits.max_ttft_ms, "ms"});
  if (limits.max_memory_mib > 0) out.push_back({"memory", row.memory_mib, limits.max_memory_mib, "MiB"});
  return out;
}

std::vector<std::string> list_misses(const Row& row, const Limits& limits) {
  std::vector<std::string> out;
  for (const auto& c : compare(row, limits)) {
    if (c.value <= c.limit) continue;
    out.push_back(c.what + " " + format_number(c.value, 4) + " " + c.unit + " is " +
                  format_number(c.value - c.limit, 3) + " " + c.unit + " over the limit of " +
                  format_number(c.limit, 4));
  }
  return out;
}

std::string within(const Row& row, const Limits& limits) {
  std::vector<std::string> out;
  for (const auto& c : compare(row, limits)) {
    out.push_back("with " + c.what + " " + format_number(c.value, 4) + " " + c.unit + " within " +
                  format_number(c.limit, 4));
  }
  return join(out, " and ");
}

const Row* find_row(const Limits& limits, std::int64_t budget) {
  for (const auto& row : limits.rows) {
    if (row.budget == budget) return &row;
  }
  return nullptr;
}

}  // namespace

double score(const Scorer& scorer, const Signals& signals, const Ids& question) {
  double total = scorer.bias;
  for (const auto& [name, weight] : scorer.signals) {  // a map is sorted by name
    const auto found = signals.find(name);
    if (found == signals.end() || !std::isfinite(found->second)) {
      return std::numeric_limits<double>::infinity();
    }
    total += weight * found->second;
  }
  total += scorer.per_token * static_cast<double>(question.size());
  const std::set<std::int64_t> asked(question.begin(), question.end());
  for (const auto& [token, weight] : scorer.tokens) total += asked.count(token) != 0 ? weight : 0.0;
  return total;
}

std::vector<Row> parse_table(const std::string& json, const std::string& digest) {
  Value v;
  try {
    v = parse_strict(json, "the measurements", limits::MANIFEST_BYTES);
    apply(*bench_table_schema(), v, "the measurements");
  } catch (const Error& error) {
    throw usage_error(error.what());
  }
  if (v.at("bundle_digest").text() != digest || v.at("device").text() != "cpu") {
    throw usage_error("the measurements are of another bundle or device; run `edgetok bench BUNDLE` here");
  }
  std::vector<Row> rows;
  for (const auto& row : v.at("rows").list()) {
    rows.push_back({row.at("budget").integer(), row.at("ttft_ms_p95").real(), row.at("memory_mib").real()});
  }
  return rows;
}

Decision choose_fixed(const std::vector<Rung>& ladder, std::int64_t budget) {
  std::vector<std::int64_t> budgets;
  for (const auto& rung : ladder) {
    if (rung.budget == budget) return {budget, std::to_string(budget) + " visual tokens were asked for", {}};
    budgets.push_back(rung.budget);
  }
  throw usage_error("no rung of " + std::to_string(budget) + " visual tokens; loaded are " + format_list(budgets));
}

Decision choose_largest(const std::vector<Rung>& ladder) {
  const auto budget = ladder.back().budget;
  return {budget, "no limit was given, so the largest rung of " + std::to_string(budget), {}};
}

Decision choose_elbow(const std::vector<Rung>& ladder, const Signals& signals) {
  const auto found = signals.find(names::SIGNAL_ELBOW);
  const std::string largest = std::to_string(ladder.back().budget);
  if (found == signals.end() || !std::isfinite(found->second)) {  // must not cost quality
    return {ladder.back().budget, "the image gave no elbow signal, so the largest rung of " + largest, {}};
  }
  const double wanted = found->second;
  const auto holds = [&](const Rung& rung) { return static_cast<double>(rung.budget) >= wanted; };
  const auto rung = std::find_if(ladder.begin(), ladder.end(), holds);
  const auto budget = rung == ladder.end() ? ladder.back().budget : rung->budget;
  char count[64];
  std::snprintf(count, sizeof count, "%.0f", wanted);
  const std::string relation = rung == ladder.end() ? "the largest, below" : "the smallest rung that holds";
  return {budget,
          std::string("the CLS-similarity curve bends at ") + count + " tokens; " + std::to_string(budget) +
              " is " + relation + " them", {}};
}

Decision choose_within(const std::vector<Rung>& ladder, const Limits& limits) {
  for (auto rung = ladder.rbegin(); rung != ladder.rend(); ++rung) {
    const Row* row = find_row(limits, rung->budget);
    if (row == nullptr || !list_misses(*row, limits).empty()) continue;
    return {rung->budget, std::to_string(rung->budget) + " is the largest rung " + within(*row, limits), {}};
  }
  const auto budget = ladder.front().budget;
  const Row* row = find_row(limits, budget);
  const std::string missed =
      row == nullptr ? "it was not measured; run edgetok bench" : join(list_misses(*row, limits), " and ");
  return {budget, "no rung is within the limits, so the smallest of " + std::to_string(budget) + ": " + missed, {}};
}

Decision choose_certified(const Controller& controller, const Signals& signals, const Ids& question) {
  return find(0, controller, signals, question);
}

void check_cases(const Controller& controller) {
  for (std::size_t i = 0; i < controller.cases.size(); ++i) {
    const Case& decided = controller.cases[i];
    Decision decision = choose_certified(controller, decided.signals, decided.question);
    Ids tried = {decision.budget};
    while (decision.review && tried.size() <= decided.answers.size()) {
      const auto following = decision.review(decided.answers[tried.size() - 1]);
      if (!following) break;
      decision = *following;
      tried.push_back(decision.budget);
    }
    if (tried == decided.budgets) continue;
    throw bundle_error("manifest.json: $.controller.cases[" + std::to_string(i) + "] tries the rungs " +
                       format_list(tried) + " here, not " + format_list(decided.budgets));
  }
}

}  // namespace edgetok_impl
