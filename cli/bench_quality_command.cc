#include "cli/bench_quality_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

#include "base/logging.h"
#include "base/status.h"
#include "cli/bench_quality/fp8_weights.h"
#include "cli/bench_quality/logits_file.h"
#include "cli/bench_quality/quality_run.h"
#include "cli/bench_quality/sequences.h"
#include "cli/bench_report.h"
#include "expert_worker/load_weights.h"
#include "model/model_file.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

constexpr int64_t kStepLogitsMax = 16 << 20;  // of each engine: 64 MB
constexpr int kStepRowsLikely = 256;

struct BenchQualityFlags {
  std::string model, text, json, logits, kv_type = "bf16", weights = "auto";
  int tokens = 4096, sequence_tokens = 4096;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
};

absl::StatusOr<TokenSequences> MakeSequences(const BenchQualityFlags& flags, const ModelFile& model) {
  const int sequence_tokens = std::min(flags.sequence_tokens, model.config().context_tokens_max);
  if (flags.text.empty()) return RandomSequences(model.config().vocab_size, flags.tokens, sequence_tokens);
  std::ifstream file(flags.text, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError("cannot read " + flags.text);
  RETURN_IF_ERROR(model.tokenizer().status());
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(*model.tokenizer()));
  TokenSequences sequences = CutText(*tokenizer, text.str(), flags.tokens, sequence_tokens);
  if (sequences.empty()) return InvalidArgument(flags.text + ": no tokens");
  return sequences;
}

// A line that is drawn over, on a terminal.
class TokensLine {
 public:
  explicit TokensLine(size_t total) : total_(total) {}
  ~TokensLine() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }
  void Show(int done) const {
    if (!terminal_) return;
    fmt::print(stderr, "\r{} of {} tokens", done, total_);
    std::fflush(stderr);
  }

 private:
  const size_t total_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
};

std::string Table(const BenchQualityFlags& flags, const TokenSequences& sequences, const QualityFigures& figures) {
  const Distribution& kl = figures.kl;
  const std::string_view keys = flags.kv_type == "int8" ? " and int8 keys and values" : "";
  std::string out = flags.weights == "fp8"
                        ? fmt::format("{}: weights in FP8{} against the file's, both in float32\n", flags.model, keys)
                        : fmt::format("{}: int8 activations{} against float32, the same weights\n", flags.model, keys);
  out += fmt::format("{} tokens of {} in {} sequences\n\n", kl.count, flags.text.empty() ? "random ids" : flags.text,
                     sequences.size());
  out += fmt::format("  {:<28}{:>12}{:>12}{:>12}{:>12}\n", "", "mean", "median", "p99", "max");
  out += fmt::format("  {:<28}{:>12.3g}{:>12.3g}{:>12.3g}{:>12.3g}\n", "KL divergence, nats", kl.mean, kl.p50, kl.p99,
                     kl.max);
  out += fmt::format("  {:<28}{:>12.2f}\n", "same likeliest token, %", 100 * figures.top1_agreement);
  out += fmt::format("  {:<28}{:>48.3g}\n", "error of a log-probability", figures.logprob_error_max);
  if (figures.predicted > 0)
    out += fmt::format("  {:<28}{:>12.4f}   (float32: {:.4f})\n", "perplexity", figures.candidate_perplexity,
                       figures.reference_perplexity);
  return out;
}

std::string Json(const BenchQualityFlags& flags, const TokenSequences& sequences, const QualityFigures& figures) {
  const Distribution& kl = figures.kl;
  const nlohmann::ordered_json json = {
      {"model", flags.model},
      {"text", flags.text},
      {"tokens", kl.count},
      {"sequences", sequences.size()},
      {"kv_type", flags.kv_type},
      {"weights", flags.weights},
      {"kl", {{"mean", kl.mean}, {"p50", kl.p50}, {"p90", kl.p90}, {"p99", kl.p99}, {"max", kl.max}}},
      {"top1_agreement", figures.top1_agreement},
      {"logprob_error_max", figures.logprob_error_max},
      {"perplexity", {{"reference", figures.reference_perplexity}, {"candidate", figures.candidate_perplexity}}}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

// What is compared with float32 arithmetic on the file's weights.
struct Candidate {
  std::unique_ptr<WorkerWeights> packed;
  std::unique_ptr<Fp8Weights> fp8;
  const ModelTensors* tensors = nullptr;  // of either
};

absl::StatusOr<Candidate> MakeCandidate(const BenchQualityFlags& flags, const ModelFile& model, ThreadPool* pool) {
  Candidate candidate;
  if (flags.weights == "fp8") {
    auto rounded = Fp8Weights::Round(model.tensors(), pool);
    RETURN_IF_ERROR(Annotate(rounded.status(), flags.model));
    candidate.fp8 = std::make_unique<Fp8Weights>(*std::move(rounded));
    candidate.tensors = &candidate.fp8->tensors();
    return candidate;
  }
  ASSIGN_OR_RETURN(candidate.packed, WorkerWeights::Create(&model, flags.threads));
  if (!candidate.packed->packs())
    return InvalidArgument(flags.model + ": no matrix is quantised: its one and only arithmetic is float32");
  RETURN_IF_ERROR(candidate.packed->Load(WorkerWeights::What::kAll, [] { return false; }));
  candidate.tensors = &candidate.packed->tensors();
  return candidate;
}

absl::Status BenchQuality(const BenchQualityFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(flags.model));
  const ModelConfig& config = model->config();
  ASSIGN_OR_RETURN(const TokenSequences sequences, MakeSequences(flags, *model));
  bool in_panels = false;
  VisitMatrices(model->tensors(), [&](const TensorView& matrix) { in_panels |= matrix.layout == Layout::kPanels; });
  if (in_panels)
    return InvalidArgument(flags.model +
                           ": is packed, float32 arithmetic reads rows: braid convert it to a .gguf, and measure that");
  ThreadPool pool(flags.threads);
  ASSIGN_OR_RETURN(const Candidate candidate, MakeCandidate(flags, *model, &pool));

  QualityRunOptions options;
  options.kv_type = *KvTypeNamed(flags.kv_type);
  options.rows_max = static_cast<int>(std::clamp<int64_t>(kStepLogitsMax / config.vocab_size, 1, kStepRowsLikely));
  std::unique_ptr<LogitsFile> logits;
  if (!flags.logits.empty()) {
    ASSIGN_OR_RETURN(logits, LogitsFile::Create(flags.logits, sequences, config.vocab_size));
    options.logits = [&](auto reference, auto candidate) { return logits->Append(reference, candidate); };
  }
  QualityFigures figures;
  {
    size_t total = 0;
    for (const auto& sequence : sequences) total += sequence.size();
    const TokensLine line(total);
    options.progress = [&](int done) { line.Show(done); };
    ASSIGN_OR_RETURN(figures, CompareEngines(config, model->tensors(), *candidate.tensors, sequences, options, &pool));
  }
  if (logits) RETURN_IF_ERROR(logits->Close());
  return WriteBenchReport(Table(flags, sequences, figures), Json(flags, sequences, figures), flags.json);
}

}  // namespace

void AddBenchQualityCommand(CLI::App& bench, int* exit_code) {
  const auto flags = std::make_shared<BenchQualityFlags>();
  CLI::App* quality =
      bench.add_subcommand("quality", "Compare the int8 arithmetic with float32 arithmetic on the same weights");
  quality
      ->add_option("--model", flags->model,
                   "A .gguf file or a Hugging Face directory, quantised (with --weights fp8: in floats)")
      ->required();
  quality
      ->add_option("--weights", flags->weights,
                   "auto, or fp8: compare what --weights fp8 has a GPU keep with the file's own, both in float32, on "
                   "this CPU")
      ->check(CLI::IsMember({"auto", "fp8"}))
      ->capture_default_str();
  quality
      ->add_option("--text", flags->text,
                   "A file to read through the model; control tokens count as such, and each first-token (BOS) "
                   "begins a sequence. Default: random ids")
      ->check(CLI::ExistingFile);
  quality
      ->add_option("--kv-type", flags->kv_type,
                   "How keys and values are kept of what is compared with bf16 and float32")
      ->check(CLI::IsMember({"bf16", "int8"}))
      ->capture_default_str();
  quality->add_option("--tokens", flags->tokens, "As many of it at most")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  quality->add_option("--sequence-tokens", flags->sequence_tokens, "Longer sequences are cut")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  quality->add_option("--threads", flags->threads, "Default: as many as there are cores")->check(CLI::Range(1, 1024));
  quality->add_option("--json", flags->json,
                      "Write all figures to this file; - is standard output (the table goes to standard error then)");
  quality->add_option("--logits", flags->logits, "Write both engines' logits to this safetensors file");
  quality->callback([flags, exit_code] {
    InitLogging("bench");
    spdlog::set_level(spdlog::level::warn);  // how long loading took is no news here
    const absl::Status status = BenchQuality(*flags);
    if (!status.ok()) fmt::print(stderr, "braid bench quality: {}\n", std::string(StdView(status.message())));
    *exit_code = status.ok() ? 0 : 1;
  });
}

}  // namespace braid
