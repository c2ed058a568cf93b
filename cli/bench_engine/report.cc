#include "cli/bench_engine/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/human.h"

namespace braid {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kNameWidth = 35;

double Seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

StepOp Op(int i) { return static_cast<StepOp>(i); }

// Of a profiled step.
double OpSeconds(const PointResult& result, StepOp op) {
  return result.profiled_steps == 0 ? 0 : Seconds(result.profile[op].time) / static_cast<double>(result.profiled_steps);
}

// Whether the engine has such an op at all.
bool IsTimed(const EngineBenchResults& results, StepOp op) {
  return std::any_of(results.points.begin(), results.points.end(),
                     [op](const PointResult& result) { return result.profile[op].laps > 0; });
}

// A mean over the steps of a point.
double PerStep(const PointResult& result, double sum) {
  return result.steps == 0 ? 0 : sum / static_cast<double>(result.steps);
}

double ExpertsPerLayer(const PointResult& result, int moe_layers) {
  return moe_layers == 0 ? 0 : PerStep(result, result.experts_touched) / moe_layers;
}

// What holds the whole of the point's steps back.
const char* Bound(const PointResult& result) {
  const WorkCost total = Total(result.cost);
  const MachineLimits machine = result.Machine();
  return total.ReadSeconds(machine) > total.ComputeSeconds(machine) ? "memory" : "compute";
}

// Columns of the second table are named after the rows of the first.
std::string Letter(size_t point) { return point < 26 ? std::string(1, static_cast<char>('a' + point)) : "?"; }

std::string PointsTable(const EngineBenchResults& results) {
  std::string text = fmt::format("{:<{}} {:>9} {:>9} {:>7}  {:<7} {:>8} {:>9} {:>8}\n", "", kNameWidth, "tokens/s",
                                 "limit", "share", "bound", "GB/s", "Tera-op/s", "experts");
  for (size_t i = 0; i < results.points.size(); ++i) {
    const PointResult& result = results.points[i];
    const MachineLimits machine = result.Machine();
    text += fmt::format("{:<{}} {:>9.1f} {:>9.1f} {:>6.1f}%  {:<7} {:>8.1f} {:>9.2f} {:>8.1f}\n",
                        Letter(i) + "  " + result.point.Name(), kNameWidth, result.TokensPerSecond(),
                        result.LimitTokensPerSecond(), 100 * result.LimitShare(), Bound(result),
                        machine.read_bytes_per_second * 1e-9, machine.int8_ops_per_second * 1e-12,
                        ExpertsPerLayer(result, results.moe_layers));
  }
  return text;
}

// A column for each point: milliseconds of a step, and the share that the op's own limit is of them.
std::string OpsTable(const EngineBenchResults& results) {
  std::string text = fmt::format("{:<11}", "");
  for (size_t i = 0; i < results.points.size(); ++i) text += fmt::format(" {:>9} {:>5}", Letter(i), "");
  text += "\n";
  for (int op = 0; op < kStepOps; ++op) {
    if (!IsTimed(results, Op(op))) continue;
    text += fmt::format("{:<11}", Name(Op(op)));
    for (const PointResult& result : results.points) {
      const double seconds = OpSeconds(result, Op(op));
      const double limit = PerStep(result, result.cost[op].Seconds(result.Machine()));
      text += fmt::format(" {:>9.3f}", seconds * 1e3);
      text += seconds > 0 && limit > 0 ? fmt::format(" {:>4.0f}%", 100 * limit / seconds) : fmt::format(" {:>5}", "");
    }
    text += "\n";
  }
  return text;
}

// Decode steps as graphs and launch by launch.
std::string GraphsTable(const EngineBenchResults& results) {
  std::string text;
  for (size_t i = 0; i < results.points.size(); ++i) {
    const PointResult& result = results.points[i];
    if (result.point.kind != BenchPoint::Kind::kDecode || result.plain_step_seconds == 0) continue;
    if (text.empty())
      text = fmt::format("\n{:<{}} {:>9} {:>9} {:>10}\n", "Steps, ms", kNameWidth, "graph", "launches", "operations");
    text += fmt::format("{:<{}} {:>9.3f} {:>9.3f} {:>10}\n", Letter(i) + "  " + result.point.Name(), kNameWidth,
                        1e3 * result.point.sequences / result.TokensPerSecond(), 1e3 * result.plain_step_seconds,
                        result.graph_launches);
  }
  return text;
}

Json CostJson(const WorkCost& cost) {
  return {{"bytes", cost.bytes}, {"int8_ops", cost.int8_ops}, {"attention_ops", cost.attention_ops}};
}

Json MachineJson(const MachineLimits& machine) {
  return {{"read_bytes_per_second", machine.read_bytes_per_second},
          {"int8_ops_per_second", machine.int8_ops_per_second}};
}

Json SampleJson(const PointSample& sample) {
  Json json = {{"tokens_per_second", sample.tokens_per_second},
               {"limit_tokens_per_second", sample.limit_tokens_per_second}};
  json.update(MachineJson(sample.machine));
  return json;
}

// Means over the steps.
Json OpsJson(const PointResult& result) {
  Json ops = Json::array();
  for (int op = 0; op < kStepOps; ++op) {
    const StepProfile::Op& timed = result.profile[Op(op)];
    if (timed.laps == 0) continue;
    Json json = {{"op", Name(Op(op))},
                 {"laps", static_cast<double>(timed.laps) / static_cast<double>(result.profiled_steps)},
                 {"seconds", OpSeconds(result, Op(op))},
                 {"limit_seconds", PerStep(result, result.cost[op].Seconds(result.Machine()))}};
    WorkCost cost = result.cost[op];
    cost = {PerStep(result, cost.bytes), PerStep(result, cost.int8_ops), PerStep(result, cost.attention_ops)};
    json.update(CostJson(cost));
    ops.push_back(std::move(json));
  }
  return ops;
}

Json PointJson(const PointResult& result, int moe_layers) {
  const bool prompt = result.point.kind == BenchPoint::Kind::kPrompt;
  Json json = {{"kind", prompt ? "prompt" : "decode"},
               {"sequences", result.point.sequences},
               {prompt ? "prompt_tokens" : "context_tokens", result.point.tokens},
               {"tokens_per_second", result.TokensPerSecond()},
               {"limit_tokens_per_second", result.LimitTokensPerSecond()},
               {"limit_share", result.LimitShare()},
               {"bound", Bound(result)},
               {"steps", result.steps},
               {"experts_per_layer", ExpertsPerLayer(result, moe_layers)}};
  if (result.plain_step_seconds > 0) {
    json["graph_launches"] = result.graph_launches;
    json["plain_step_seconds"] = result.plain_step_seconds;
  }
  json.update(MachineJson(result.Machine()));
  for (const PointSample& sample : result.samples) json["samples"].push_back(SampleJson(sample));
  json["ops_per_step"] = OpsJson(result);
  return json;
}

std::string ComputesOn(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                       const EngineBenchResults& results) {
  if (subject.device == "cpu") {
    return fmt::format("{} threads, level {} (int8 peak with {})", options.threads, subject.device_name,
                       results.multiplies_with);
  }
  return fmt::format("{}, {} (peak of its data sheet, {}), {}", subject.device, subject.device_name,
                     results.multiplies_with, subject.arithmetic);
}

}  // namespace

std::string EngineBenchTable(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                             const EngineBenchResults& results) {
  std::string text = fmt::format("{}, {} of weights; {}; keys and values in {}; chunks of {}; medians of {}\n\n",
                                 subject.model, HumanBytes(subject.weight_bytes), ComputesOn(subject, options, results),
                                 Name(options.kv_type), options.chunk, options.repeat);
  text += PointsTable(results);
  if (results.memory_bytes_beyond > 0)
    text += fmt::format("\nmemory beyond weights, keys and values: {}\n", HumanBytes(results.memory_bytes_beyond));
  text +=
      "\nWhere the time goes: milliseconds per step (a chunk of a prompt is one), and what the op's limit is of "
      "them\n\n";
  return text + OpsTable(results) + GraphsTable(results);
}

std::string EngineBenchJson(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                            const EngineBenchResults& results) {
  Json json = {{"model", subject.model},
               {"path", subject.path},
               {"weight_bytes", subject.weight_bytes},
               {"kv_type", Name(options.kv_type)},
               {"kv_bytes_per_token", results.kv_bytes_per_token},
               {"kv_values_per_token", results.kv_values_per_token},
               {"kv_bytes", results.kv_bytes},
               {"memory_bytes_beyond_weights_and_kv", results.memory_bytes_beyond},
               {"threads", options.threads},
               {"device", subject.device},
               {"device_name", subject.device_name},
               {"arithmetic", subject.arithmetic},
               {"multiplies_with", results.multiplies_with},
               {"chunk_tokens", options.chunk},
               {"decode_steps", options.steps},
               {"repeat", options.repeat},
               {"seed", options.seed},
               {"points", Json::array()}};
  for (const PointResult& result : results.points) json["points"].push_back(PointJson(result, results.moe_layers));
  return json.dump(1) + "\n";
}

}  // namespace braid
