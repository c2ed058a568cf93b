#pragma once

#include "model/test_files.h"

namespace braid {

// The random model of model/test_files.h with two layers of attention, eight experts, and a token that has no text: for
// tests of what a worker does.
class TinyWorkerModel : public TinyModel {
 public:
  TinyWorkerModel();

  static constexpr int kVocab = 50;
  static constexpr TokenId kNoToken = 49;
};

}  // namespace braid
