#include "base/panels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace braid {
namespace {

uint8_t Byte(const std::byte* p, int i) { return static_cast<uint8_t>(p[i]); }

// Quant `i` of block `j` of a group, as an unsigned number, from the block of the file that holds the group.
int QuantOf(DType type, const std::byte* p, int j, int i) {
  switch (type) {
    case DType::kQ4_0:
      return i < 16 ? Byte(p, 2 + i) & 15 : Byte(p, 2 + i - 16) >> 4;
    case DType::kQ8_0:
      return (Byte(p, 2 + i) + 128) & 255;
    case DType::kQ4_K:
      return Byte(p, 16 + 32 * (j / 2) + i) >> 4 * (j % 2) & 15;
    case DType::kQ5_K:
      return (Byte(p, 48 + 32 * (j / 2) + i) >> 4 * (j % 2) & 15) | (Byte(p, 16 + i) >> j & 1) << 4;
    default: {  // Q6_K
      const int half = j / 4, quarter = j % 4;
      return (Byte(p, 64 * half + 32 * (quarter % 2) + i) >> 4 * (quarter / 2) & 15) |
             (Byte(p, 128 + 32 * half + i) >> 2 * quarter & 3) << 4;
    }
  }
}

// The 6-bit scale and minimum `j` of Q4_K and Q5_K.
int KScale(const std::byte* s, int j) {
  return j < 4 ? Byte(s, j) & 63 : (Byte(s, j + 4) & 15) | (Byte(s, j - 4) >> 6) << 4;
}
int KMin(const std::byte* s, int j) {
  return j < 4 ? Byte(s, j + 4) & 63 : Byte(s, j + 4) >> 4 | (Byte(s, j) >> 6) << 4;
}

void Put(int value, int shift, std::byte* p) { *p |= static_cast<std::byte>(value << shift); }

// The quants of one row in a block, quant by quant where the drawing has them.
void PlainPackQuants(DType type, const std::byte* stored, int j, int output, std::byte* block) {
  const int half = output / 16, o = output % 16;
  for (int column = 0; column < kPanelColumns; ++column) {
    const int q = QuantOf(type, stored, j, column), i = column % 4;
    if (type == DType::kQ8_0) {
      Put(q, 0, block + 64 + 512 * half + 64 * (column / 4) + 4 * o + i);
      continue;
    }
    Put(q & 15, column / 16 * 4, block + 64 + 256 * half + 64 * (column % 16 / 4) + 4 * o + i);
    if (type == DType::kQ5_K) Put(q >> 4, column / 4, block + 576 + 64 * half + 4 * o + i);
    if (type == DType::kQ6_K)
      Put(q >> 4, column % 16 / 4 * 2, block + 576 + 128 * half + 64 * (column / 16) + 4 * o + i);
  }
}

void PlainPackScales(DType type, const std::byte* stored, int j, int output, std::byte* group, std::byte* block) {
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ8_0:
      std::memcpy(block + 2 * output, stored, 2);
      return;
    case DType::kQ4_K:
    case DType::kQ5_K:
      std::memcpy(group + 2 * output, stored, 2);
      std::memcpy(group + 64 + 2 * output, stored + 2, 2);
      block[output] = static_cast<std::byte>(KScale(stored + 4, j));
      block[32 + output] = static_cast<std::byte>(KMin(stored + 4, j));
      return;
    default:  // Q6_K
      std::memcpy(group + 2 * output, stored + 208, 2);
      block[output] = stored[192 + 2 * j];
      block[32 + output] = stored[192 + 2 * j + 1];
  }
}

std::vector<std::byte> PlainPacked(DType type, uint64_t columns, const std::byte* rows, int outputs) {
  const PanelGroup shape = PanelGroupOf(type);
  std::vector<std::byte> panel(PanelBytes(type, columns));
  for (int output = 0; output < outputs; ++output) {
    const std::byte* stored = rows + static_cast<uint64_t>(output) * RowBytes(type, columns);
    for (uint64_t g = 0; g < columns / static_cast<uint64_t>(Info(type).elements); ++g, stored += Info(type).bytes) {
      std::byte* group = panel.data() + g * shape.bytes();
      for (int j = 0; j < shape.blocks; ++j) {
        std::byte* block = group + shape.head_bytes + j * shape.block_bytes;
        PlainPackScales(type, stored, j, output, group, block);
        PlainPackQuants(type, stored, j, output, block);
      }
    }
  }
  return panel;
}

class PanelsTest : public testing::TestWithParam<DType> {
 protected:
  std::vector<std::byte> RandomRows(uint64_t columns, int rows) {
    std::vector<std::byte> bytes(static_cast<uint64_t>(rows) * RowBytes(GetParam(), columns));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    return bytes;
  }

  std::mt19937 random_{7};
};

TEST_P(PanelsTest, LieAsDrawn) {
  for (const uint64_t columns : {256, 512, 1792}) {
    for (const int outputs : {1, 15, 16, 17, 31, 32}) {
      const std::vector<std::byte> rows = RandomRows(columns, outputs);
      std::vector<std::byte> panel(PanelBytes(GetParam(), columns), std::byte{0xAA});
      PackPanel(GetParam(), columns, rows.data(), outputs, panel.data());
      ASSERT_EQ(panel, PlainPacked(GetParam(), columns, rows.data(), outputs)) << columns << " " << outputs;
    }
  }
}

TEST_P(PanelsTest, GiveBackEveryBitOfARow) {
  const auto elements = static_cast<uint64_t>(Info(GetParam()).elements);
  for (const uint64_t columns : {elements, 3 * elements, 7 * elements}) {
    for (const int outputs : {5, 32}) {
      const std::vector<std::byte> rows = RandomRows(columns, outputs);
      std::vector<std::byte> panel(PanelBytes(GetParam(), columns));
      PackPanel(GetParam(), columns, rows.data(), outputs, panel.data());
      std::vector<std::byte> unpacked(rows.size());
      for (int output = 0; output < outputs; ++output)
        UnpackRow(GetParam(), panel.data(), output, 0, columns,
                  unpacked.data() + static_cast<uint64_t>(output) * RowBytes(GetParam(), columns));
      ASSERT_EQ(unpacked, rows) << columns << " " << outputs;
    }
  }
}

TEST_P(PanelsTest, GiveBackAPartOfARow) {
  const auto elements = static_cast<uint64_t>(Info(GetParam()).elements);
  const std::vector<std::byte> rows = RandomRows(6 * elements, 32);
  std::vector<std::byte> panel(PanelBytes(GetParam(), 6 * elements)), part(RowBytes(GetParam(), 3 * elements));
  PackPanel(GetParam(), 6 * elements, rows.data(), 32, panel.data());
  UnpackRow(GetParam(), panel.data(), 17, 2 * elements, 3 * elements, part.data());
  const std::byte* want = rows.data() + 17 * RowBytes(GetParam(), 6 * elements) + RowBytes(GetParam(), 2 * elements);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), want));
}

TEST_P(PanelsTest, KeepEveryVectorAligned) {
  const PanelGroup group = PanelGroupOf(GetParam());
  EXPECT_EQ(group.head_bytes % 64, 0);
  EXPECT_EQ(group.block_bytes % 64, 0);
  EXPECT_EQ(group.blocks * kPanelColumns, Info(GetParam()).elements);
  EXPECT_EQ(PackedBytes(GetParam(), 33, 512), 2 * PanelBytes(GetParam(), 512));
}

INSTANTIATE_TEST_SUITE_P(Types, PanelsTest,
                         testing::Values(DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace braid
