#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace braid {

struct ModelConfig;
struct WorkerOptions;

// What a worker computes on, and how it rounds there.
struct ComputeDevice {
  enum class Kind { kCpu, kCuda };
  Kind kind = Kind::kCpu;
  int index = 0;          // of the GPU, among those that this process sees
  bool float32 = false;   // activations on a GPU, for comparing with the CPU; else bfloat16
  bool exact = true;      // a row's bits do not depend on the rows it is computed with
  bool fp8 = false;       // weights that the file has in floats are FP8 on a GPU
  bool fp8_rows = false;  // and so is what they are multiplied by
  // What moves hidden states between such workers, and how: "ucx", "inprocess", "nccl", "nccl, halves from 512 rows".
  std::string exchange;

  bool is_cuda() const { return kind == Kind::kCuda; }
  std::string Name() const;  // "cpu", "cuda:0"
  // What an answer depends on besides model file, request and seed, the type of keys and values aside: "cpu",
  // "cuda bf16 exact", "cuda bf16 fast", "cuda float32", each of these with " fp8 weights" behind it, "cuda fp8 exact",
  // "cuda fp8 fast". Workers of one cluster must agree on it.
  std::string Arithmetic() const;
};

// What the options ask for, whether or not it is there. kInvalidArgument, naming the flag and the remedy, for what does
// not exist or contradicts itself.
absl::StatusOr<ComputeDevice> ChooseDevice(const WorkerOptions& options);
// kInvalidArgument, alike, if it is not for this model.
absl::Status CheckModelFits(const ComputeDevice& device, const ModelConfig& config);
// Whether it is there: an error is one sentence that says what is missing and how to do without. Takes no time, so that
// nobody waits for weights first.
absl::Status CheckPresent(const ComputeDevice& device);

}  // namespace braid
