#pragma once

#ifdef BRAID_ON_GPU  // the same tests on a real one
#include "tests/on_gpu/global_array.h"
#else

#include <algorithm>
#include <vector>

#include "tests/cuda_emulator/memory.h"

namespace simt {

// A tensor for a kernel, of exactly n numbers: what is written beside it is found, what is read there or before it was
// written is NaN or huge.
template <typename T>
class GlobalArray {
 public:
  explicit GlobalArray(size_t n) : bytes_(n * sizeof(T)) {}
  explicit GlobalArray(const std::vector<T>& values) : GlobalArray(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }
  T* data() { return reinterpret_cast<T*>(bytes_.begin()); }
  size_t size() const { return bytes_.bytes() / sizeof(T); }
  T& operator[](size_t i) { return data()[i]; }
  std::vector<T> values() { return std::vector<T>(data(), data() + size()); }

 private:
  GlobalBytes bytes_;
};

}  // namespace simt

#endif
