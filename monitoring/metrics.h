#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace prometheus {
class Registry;
}

namespace braid {

using Labels = std::vector<std::pair<std::string, std::string>>;

// Handles are cheap to copy, thread-safe, never fail, and live as long as the Metrics they came from.
// A service owns one probe.h whose members are these handles, so that call sites read probe.ttft.Observe(seconds).
class Counter {
 public:
  void Add(double n = 1);

 private:
  friend class Metrics;
  void* impl_ = nullptr;
};
class Gauge {
 public:
  void Set(double value);
  void Add(double n);

 private:
  friend class Metrics;
  void* impl_ = nullptr;
};
class Histogram {
 public:
  void Observe(double value);

 private:
  friend class Metrics;
  void* impl_ = nullptr;
};

// One per process (several services may share it in `braid serve`). Thread-safe. Names begin with braid_, base units
// (_seconds, _bytes), counters end in _total.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  // The same name and labels give the same metric. REQUIRES: valid Prometheus names, one type per name.
  Counter AddCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram AddHistogram(const std::string& name, const std::string& help, const std::vector<double>& buckets,
                         const Labels& labels = {});

  // The text exposition format 0.0.4; process_* metrics (CPU, memory, descriptors, start time) are read now.
  std::string Serialize();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// Bucket sets shared by all histograms of a kind.
const std::vector<double>& LatencyBuckets();       // 0.5 ms to 10 min: time to first token, whole requests
const std::vector<double>& TokenLatencyBuckets();  // 0.25 ms to 10 s: inter-token, steps
const std::vector<double>& TokenCountBuckets();    // 1, 2, 4, ... 131072

}  // namespace braid
