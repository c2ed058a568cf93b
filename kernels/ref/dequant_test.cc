#include "kernels/ref/dequant.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace braid {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// kernels/ref/make_dequant_golden.py describes the file.
TEST(Dequantize, AgreesBitForBitWithTheGgufPackage) {
  const std::string golden = ReadFile("kernels/ref/dequant_golden.bin");
  int cases = 0;
  for (size_t at = 0; at < golden.size(); ++cases) {
    const std::string name = golden.substr(at, 8).c_str();
    uint32_t values = 0, bytes = 0;
    std::memcpy(&values, &golden[at + 8], 4);
    std::memcpy(&bytes, &golden[at + 12], 4);
    at += 16;
    const DType type = DTypeFromName(name).value();
    ASSERT_EQ(RowBytes(type, values), bytes) << name;
    std::vector<float> got(values), want(values);
    std::memcpy(want.data(), &golden[at + bytes], values * sizeof(float));
    Dequantize(type, &golden[at], values, got.data());
    for (uint32_t i = 0; i < values; ++i) ASSERT_EQ(got[i], want[i]) << name << " value " << i;
    at += bytes + values * sizeof(float);
  }
  EXPECT_EQ(cases, 7);
}

TEST(Dequantize, CopiesF32FromAnyAddress) {
  const float values[] = {1.5f, -0.0f, 3e-42f};
  char unaligned[1 + sizeof values];
  std::memcpy(unaligned + 1, values, sizeof values);
  float got[3];
  Dequantize(DType::kF32, unaligned + 1, 3, got);
  EXPECT_EQ(std::memcmp(got, values, sizeof values), 0);
}

}  // namespace
}  // namespace braid
