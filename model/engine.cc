#include "model/engine.h"

#include "base/check.h"
#include "model/checksum_engine.h"
#include "model/forward.h"

namespace braid {
namespace {

// LFM2 and LFM2-MoE.
class LfmEngine : public Engine {
 public:
  LfmEngine(const ModelConfig* config, const ModelTensors* tensors, HostStates* states, ThreadPool* pool)
      : forward_(config, tensors, states, pool), experts_(config, tensors, pool) {}

  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) override {
    return forward_.Run(chunks, experts, logits);
  }
  absl::Status Logits(int begin, int end, std::vector<float>* logits) override {
    return forward_.Logits(begin, end, logits);
  }
  void Profile(StepProfile* profile) override { forward_.Profile(profile); }
  ExpertFfn& experts() override { return experts_; }

 private:
  Forward forward_;
  GatedExpertFfn experts_;
};

}  // namespace

absl::Status Engine::Draw(std::span<const DrawnRow>) { return absl::UnimplementedError("this engine draws no tokens"); }

absl::Status Engine::TakeDrawn(std::vector<TokenId>*) { CHECK(false) << "nothing was drawn"; }

std::unique_ptr<Engine> MakeEngine(const ModelConfig* config, const ModelTensors* tensors, HostStates* states,
                                   ThreadPool* pool) {
  if (config->architecture == "checksum") return std::make_unique<ChecksumEngine>(config, states, pool);
  return std::make_unique<LfmEngine>(config, tensors, states, pool);
}

}  // namespace braid
