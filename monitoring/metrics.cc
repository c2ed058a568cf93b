#include "monitoring/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <mutex>

#include "monitoring/process_stats.h"

namespace braid {

void Counter::Add(double n) { static_cast<prometheus::Counter*>(impl_)->Increment(n); }
void Gauge::Set(double value) { static_cast<prometheus::Gauge*>(impl_)->Set(value); }
void Gauge::Add(double n) { static_cast<prometheus::Gauge*>(impl_)->Increment(n); }
void Histogram::Observe(double value) { static_cast<prometheus::Histogram*>(impl_)->Observe(value); }

// The registry merges families of one name and families merge metrics of equal labels, so asking twice is harmless.
struct Metrics::Impl {
  prometheus::Registry registry;
  std::mutex serialize_mutex;  // process gauges are set and read together
  Counter cpu_seconds;
  double cpu_seconds_counted = 0;
  Gauge resident_bytes, virtual_bytes, open_fds, max_fds, start_time_seconds, threads;
};

namespace {

std::map<std::string, std::string> ToMap(const Labels& labels) { return {labels.begin(), labels.end()}; }

}  // namespace

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  // Prometheus' own names for what every process has, so that ready-made dashboards find them.
  impl_->cpu_seconds = AddCounter("process_cpu_seconds_total", "User and system CPU time spent, in seconds.");
  impl_->resident_bytes = AddGauge("process_resident_memory_bytes", "Resident memory, mapped model pages included.");
  impl_->virtual_bytes = AddGauge("process_virtual_memory_bytes", "Virtual memory.");
  impl_->open_fds = AddGauge("process_open_fds", "Open file descriptors.");
  impl_->max_fds = AddGauge("process_max_fds", "Limit of open file descriptors.");
  impl_->start_time_seconds = AddGauge("process_start_time_seconds", "Start of the process since the Unix epoch.");
  impl_->threads = AddGauge("braid_process_threads", "Threads of the process.");
}

Metrics::~Metrics() = default;

Counter Metrics::AddCounter(const std::string& name, const std::string& help, const Labels& labels) {
  Counter handle;
  handle.impl_ = &prometheus::BuildCounter().Name(name).Help(help).Register(impl_->registry).Add(ToMap(labels));
  return handle;
}

Gauge Metrics::AddGauge(const std::string& name, const std::string& help, const Labels& labels) {
  Gauge handle;
  handle.impl_ = &prometheus::BuildGauge().Name(name).Help(help).Register(impl_->registry).Add(ToMap(labels));
  return handle;
}

Histogram Metrics::AddHistogram(const std::string& name, const std::string& help, const std::vector<double>& buckets,
                                const Labels& labels) {
  Histogram handle;
  handle.impl_ =
      &prometheus::BuildHistogram().Name(name).Help(help).Register(impl_->registry).Add(ToMap(labels), buckets);
  return handle;
}

std::string Metrics::Serialize() {
  std::lock_guard lock(impl_->serialize_mutex);
  const ProcessStats stats = ReadProcessStats();
  impl_->cpu_seconds.Add(stats.cpu_seconds - impl_->cpu_seconds_counted);
  impl_->cpu_seconds_counted = stats.cpu_seconds;
  impl_->resident_bytes.Set(stats.resident_bytes);
  impl_->virtual_bytes.Set(stats.virtual_bytes);
  impl_->open_fds.Set(stats.open_fds);
  impl_->max_fds.Set(stats.max_fds);
  impl_->start_time_seconds.Set(stats.start_time_seconds);
  impl_->threads.Set(stats.threads);
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double> buckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                              1,      2.5,   5,      10,    20,   40,    80,   160, 320,  600};
  return buckets;
}

const std::vector<double>& TokenLatencyBuckets() {
  static const std::vector<double> buckets = {0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
                                              0.1,     0.15,   0.2,   0.3,    0.5,   1,    2.5,   5,    10};
  return buckets;
}

const std::vector<double>& TokenCountBuckets() {
  static const std::vector<double> buckets = [] {
    std::vector<double> powers;
    for (double tokens = 1; tokens <= 131072; tokens *= 2) powers.push_back(tokens);
    return powers;
  }();
  return buckets;
}

}  // namespace braid
