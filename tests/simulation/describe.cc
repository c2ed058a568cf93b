#include "tests/simulation/describe.h"

#include <fmt/format.h>

namespace braid::simulation {

std::string Describe(const v1::AttachRequest& message) {
  switch (message.message_case()) {
    case v1::AttachRequest::kHello:
      return fmt::format("hello from {}, group '{}', host '{}', last epoch {}", message.hello().name(),
                         message.hello().group(), message.hello().host(), message.hello().epoch());
    case v1::AttachRequest::kPrepared:
      return fmt::format("prepared {}", message.prepared().epoch());
    case v1::AttachRequest::kConfigured:
      return fmt::format("configured {}", message.configured().epoch());
    case v1::AttachRequest::kBegun:
      return fmt::format("begun {}, missing [{}]", message.begun().epoch(), fmt::join(message.begun().missing(), " "));
    case v1::AttachRequest::kStepDone: {
      std::string text = fmt::format("done {}/{}", message.step_done().epoch(), message.step_done().step());
      for (const v1::Sampled& sampled : message.step_done().sampled()) {
        text += fmt::format(" {}:{}", sampled.sequence(), sampled.token().token());
        for (const v1::TokenLogprob& more : sampled.more()) text += fmt::format(",{}", more.token());
      }
      return text;
    }
    case v1::AttachRequest::kFault:
      return fmt::format("fault {}/{}: {}, suspects [{}]", message.fault().epoch(), message.fault().step(),
                         message.fault().message(), fmt::join(message.fault().suspect_ranks(), " "));
    case v1::AttachRequest::kLeaving:
      return "leaving";
    default:
      return "heartbeat";
  }
}

std::string Describe(const v1::AttachResponse& message) {
  switch (message.message_case()) {
    case v1::AttachResponse::kWelcome:
      return "welcome";
    case v1::AttachResponse::kPrepare:
      return fmt::format("prepare {}, rank {} of {}", message.prepare().epoch(), message.prepare().rank(),
                         message.prepare().size());
    case v1::AttachResponse::kConfigure:
      return fmt::format("configure {}", message.configure().epoch());
    case v1::AttachResponse::kBegin: {
      std::string text = fmt::format("begin {}, keep", message.begin().epoch());
      for (const v1::SequenceKept& kept : message.begin().keep()) {
        text += fmt::format(" {}[{}]", kept.sequence(), kept.length());
      }
      if (message.begin().keep_snapshots_size() > 0) {
        text += fmt::format(", snapshots [{}]", fmt::join(message.begin().keep_snapshots(), " "));
      }
      return text;
    }
    case v1::AttachResponse::kStepPlan: {
      const v1::StepPlan& plan = message.step_plan();
      std::string text = fmt::format("step {}/{}", plan.epoch(), plan.step());
      if (plan.release_size() > 0) text += fmt::format(", release [{}]", fmt::join(plan.release(), " "));
      if (plan.drop_snapshots_size() > 0) text += fmt::format(", drop [{}]", fmt::join(plan.drop_snapshots(), " "));
      for (const v1::SequenceStart& start : plan.start()) {
        text += fmt::format(", start {}", start.sequence());
        if (start.resume() != 0) text += fmt::format(" with snapshot {}", start.resume());
      }
      for (const v1::SequenceChunk& chunk : plan.chunks()) {
        const std::string rows =
            chunk.follows() ? ">" : fmt::format("+{}", static_cast<uint32_t>(chunk.tokens_size()) - chunk.drafts());
        text += fmt::format(", {}[{}{}]{}", chunk.sequence(), chunk.position(), rows,
                            std::string(chunk.sample() ? 1 + chunk.drafts() : 0, '?'));
        for (const v1::SnapshotSave& save : chunk.saves()) {
          text += fmt::format(" save {}[{}]", save.snapshot(), save.position());
        }
      }
      return text;
    }
    case v1::AttachResponse::kStop:
      return fmt::format("stop {}", message.stop().epoch());
    default:
      return "heartbeat";
  }
}

}  // namespace braid::simulation
