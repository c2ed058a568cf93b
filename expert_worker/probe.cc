#include "expert_worker/probe.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace braid {

WorkerProbe::WorkerProbe(Metrics* metrics, int experts, bool expert_metrics)
    : faults(metrics->AddCounter("braid_worker_faults_total", "Steps and epochs this worker could not complete.")),
      attaches(metrics->AddCounter("braid_worker_attaches_total", "Streams to the router that were opened.")),
      steps_run_again(
          metrics->AddCounter("braid_worker_steps_run_again_total",
                              "Steps run twice: more went to one worker of a group than there was room for.")),
      steps_ahead(metrics->AddCounter("braid_worker_steps_ahead_total",
                                      "Steps that were started while the step before them was on the device.")),
      epoch(metrics->AddGauge("braid_worker_epoch", "The epoch this worker runs steps in; 0: none.")),
      sequences(metrics->AddGauge("braid_worker_sequences", "Sequences whose cache this worker holds.")),
      kv_blocks_used(metrics->AddGauge("braid_worker_kv_blocks_used", "KV blocks in use by sequences and snapshots.")),
      kv_blocks_total(metrics->AddGauge("braid_worker_kv_blocks", "KV blocks of this worker.")),
      snapshots(
          metrics->AddGauge("braid_worker_snapshots", "Beginnings of sequences kept for those that begin alike.")),
      snapshot_bytes(metrics->AddGauge("braid_worker_snapshot_bytes",
                                       "Memory of their conv states; their keys and values are in KV blocks.")),
      model_bytes(metrics->AddGauge("braid_model_bytes", "Bytes of the weights of the model that is loaded.")),
      metrics_(metrics),
      experts_(experts),
      step_seconds_(
          metrics->AddHistogram("braid_worker_step_seconds",
                                "Wall time of a step, the exchange included, until its answer was made; of one "
                                "that began behind another, from the answer to that.",
                                TokenLatencyBuckets())),
      steps_(metrics->AddCounter("braid_worker_steps_total", "Steps completed.")),
      exchange_seconds_(metrics->AddCounter("braid_worker_exchange_seconds_total",
                                            "Time in steps spent waiting for peers and moving bytes, with nothing to "
                                            "compute meanwhile: of the thread that computes, or of the GPU.")),
      prefill_rows_(
          metrics->AddCounter("braid_worker_rows_total", "Rows run through the model.", {{"kind", "prefill"}})),
      decode_rows_(metrics->AddCounter("braid_worker_rows_total", "Rows run through the model.", {{"kind", "decode"}})),
      expert_imbalance_(metrics->AddGauge("braid_worker_expert_imbalance",
                                          "Rows of the busiest expert over the mean of all, in the last step.")) {
  const std::string name = "braid_worker_expert_rows_total";
  const std::string help = "Rows computed by experts here, summed over layers.";
  if (!expert_metrics) expert_rows_.push_back(metrics->AddCounter(name, help));
  for (int expert = 0; expert_metrics && expert < experts; ++expert) {
    expert_rows_.push_back(metrics->AddCounter(name, help, {{"expert", std::to_string(expert)}}));
  }
}

void WorkerProbe::ComputesOn(const std::string& device, const std::string& arithmetic) {
  metrics_
      ->AddGauge("braid_worker_info", "What this worker computes on, and how it rounds there; always 1.",
                 {{"device", device}, {"arithmetic", arithmetic}})
      .Set(1);
}

void WorkerProbe::StepRan(const v1::StepPlan& plan, const v1::StepDone& done) {
  int prefill = 0, decode = 0;
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    // What a decode looks like. The one-token tail of a prefill is counted with them, which harms nobody.
    const int rows = chunk.follows() ? 1 : chunk.tokens_size();
    const bool is_decode = rows == 1 && chunk.sample() && chunk.position() > 0;
    (is_decode ? decode : prefill) += rows;
  }
  prefill_rows_.Add(prefill);
  decode_rows_.Add(decode);
  steps_.Add();
  step_seconds_.Observe(static_cast<double>(done.step_us()) * 1e-6);
  exchange_seconds_.Add(static_cast<double>(done.exchange_us()) * 1e-6);
  CountExpertRows(done.expert_rows());
}

// `rows`: (moe_layers, E)
void WorkerProbe::CountExpertRows(const google::protobuf::RepeatedField<uint64_t>& rows) {
  std::vector<uint64_t> by_expert(experts_);
  for (int i = 0; i < rows.size(); ++i) by_expert[i % experts_] += rows[i];
  const auto total = static_cast<double>(std::accumulate(by_expert.begin(), by_expert.end(), uint64_t{0}));
  if (total == 0) return;
  expert_imbalance_.Set(static_cast<double>(*std::ranges::max_element(by_expert)) * experts_ / total);
  if (expert_rows_.size() == 1) return expert_rows_[0].Add(total);
  for (int expert = 0; expert < experts_; ++expert) expert_rows_[expert].Add(static_cast<double>(by_expert[expert]));
}

}  // namespace braid
