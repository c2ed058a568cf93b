#pragma once

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "model/model_file.h"

namespace braid {

// A model of a few layers with random float32 weights, made in memory: for tests. Token 49 of 50 has no text.
class TinyModel : public ModelFile {
 public:
  explicit TinyModel(uint32_t seed = 1);

  static constexpr int kVocab = 50;
  static constexpr TokenId kNoToken = 49;

 private:
  TensorView Random(int rows, int columns, float scale);
  TensorView Ones(int n);
  FfnTensors Ffn(int dim);
  LayerTensors Layer(int index);

  std::mt19937 rng_;
  std::deque<std::vector<float>> values_;  // a deque: views into it stay valid
};

}  // namespace braid
