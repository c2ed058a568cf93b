#include "base/panels.h"

#include <cstring>

#include "base/check.h"

// A panel is a transposition of words of four quants: what one row has of a block goes, or comes, word by word, from
// vectors of which it has the same word each. Shifts and masks treat the four bytes of a word alike, so its order of
// bytes does not matter.

namespace braid {
namespace {

constexpr uint32_t kLowNibbles = 0x0F0F0F0F;
constexpr uint32_t kLowBits = 0x01010101;
constexpr uint32_t kLowPairs = 0x03030303;
constexpr int kScaleBytes = 64;     // before the quants of a block
constexpr int kNibblesBytes = 512;  // those of both halves

uint32_t LoadWord(const std::byte* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}
void StoreWord(uint32_t word, std::byte* p) { std::memcpy(p, &word, sizeof word); }

// The words of a row in the vectors of a half: word k is 64 bytes after word k - 1.
template <typename P>
P* Words(P* half, int output) {
  return half + 4 * (output % 16);
}
template <typename P>
P* NibbleWords(P* block, int output) {
  return Words(block + kScaleBytes + 256 * (output / 16), output);
}
template <typename P>
P* ByteWords(P* block, int output) {
  return Words(block + kScaleBytes + 512 * (output / 16), output);
}
template <typename P>
P* FifthWord(P* block, int output) {
  return Words(block + kScaleBytes + kNibblesBytes + 64 * (output / 16), output);
}
template <typename P>
P* UpperWords(P* block, int output) {
  return Words(block + kScaleBytes + kNibblesBytes + 128 * (output / 16), output);
}

// Each of these moves what a row has of a group, whose stored form is one block of the file's, `row`.

struct Q4_0 {
  static constexpr DType kType = DType::kQ4_0;

  static void Pack(const std::byte* row, int output, std::byte* group) {
    std::memcpy(group + 2 * output, row, 2);
    std::byte* words = NibbleWords(group, output);
    for (int k = 0; k < 4; ++k) StoreWord(LoadWord(row + 2 + 4 * k), words + 64 * k);
  }
  static void Unpack(const std::byte* group, int output, std::byte* row) {
    std::memcpy(row, group + 2 * output, 2);
    const std::byte* words = NibbleWords(group, output);
    for (int k = 0; k < 4; ++k) StoreWord(LoadWord(words + 64 * k), row + 2 + 4 * k);
  }
};

struct Q8_0 {
  static constexpr DType kType = DType::kQ8_0;
  static constexpr uint32_t kPlus128 = 0x80808080;  // modulo 256 the same as a flip of the highest bit

  static void Pack(const std::byte* row, int output, std::byte* group) {
    std::memcpy(group + 2 * output, row, 2);
    std::byte* words = ByteWords(group, output);
    for (int k = 0; k < 8; ++k) StoreWord(LoadWord(row + 2 + 4 * k) ^ kPlus128, words + 64 * k);
  }
  static void Unpack(const std::byte* group, int output, std::byte* row) {
    std::memcpy(row, group + 2 * output, 2);
    const std::byte* words = ByteWords(group, output);
    for (int k = 0; k < 8; ++k) StoreWord(LoadWord(words + 64 * k) ^ kPlus128, row + 2 + 4 * k);
  }
};

// Of two stored vectors of nibbles, each with one block in its low ones and another in its high ones (`shift` 0 or 4),
// the nibbles of one block.
void PackNibbles(const std::byte* stored, int shift, std::byte* words) {
  for (int k = 0; k < 4; ++k)
    StoreWord((LoadWord(stored + 4 * k) >> shift & kLowNibbles) | (LoadWord(stored + 16 + 4 * k) >> shift & kLowNibbles)
                                                                      << 4,
              words + 64 * k);
}
void UnpackNibbles(const std::byte* low, const std::byte* high, std::byte* stored) {
  for (int k = 0; k < 4; ++k) {
    const uint32_t a = LoadWord(low + 64 * k), b = LoadWord(high + 64 * k);
    StoreWord((a & kLowNibbles) | (b & kLowNibbles) << 4, stored + 4 * k);
    StoreWord((a >> 4 & kLowNibbles) | (b & ~kLowNibbles), stored + 16 + 4 * k);
  }
}

// The 6-bit scales and minima of Q4_K and Q5_K in their twelve bytes; kernels/ref/dequant.cc draws them.
int At(const std::byte* p, int i) { return static_cast<uint8_t>(p[i]); }
std::byte KScale(const std::byte* s, int j) {
  return static_cast<std::byte>(j < 4 ? At(s, j) & 63 : (At(s, j + 4) & 15) | (At(s, j - 4) >> 6) << 4);
}
std::byte KMin(const std::byte* s, int j) {
  return static_cast<std::byte>(j < 4 ? At(s, j + 4) & 63 : At(s, j + 4) >> 4 | (At(s, j) >> 6) << 4);
}
void StoreKScales(const int scale[8], const int min[8], std::byte* s) {
  for (int j = 0; j < 4; ++j) {
    s[j] = static_cast<std::byte>((scale[j] & 63) | scale[j + 4] >> 4 << 6);
    s[j + 4] = static_cast<std::byte>((min[j] & 63) | min[j + 4] >> 4 << 6);
    s[j + 8] = static_cast<std::byte>((scale[j + 4] & 15) | min[j + 4] << 4);
  }
}

template <DType type>
struct K {
  static constexpr DType kType = type;
  static constexpr bool kFifth = type == DType::kQ5_K;
  static constexpr int kQuants = kFifth ? 48 : 16;  // where they begin in a stored block
  static constexpr int kHead = PanelGroupOf(type).head_bytes, kBlock = PanelGroupOf(type).block_bytes;

  static void Pack(const std::byte* row, int output, std::byte* group) {
    std::memcpy(group + 2 * output, row, 2);
    std::memcpy(group + 64 + 2 * output, row + 2, 2);
    std::byte* block = group + kHead;
    for (int j = 0; j < 8; ++j, block += kBlock) {
      block[output] = KScale(row + 4, j);
      block[32 + output] = KMin(row + 4, j);
      PackNibbles(row + kQuants + 32 * (j / 2), 4 * (j % 2), NibbleWords(block, output));
      if constexpr (kFifth) {
        uint32_t fifth = 0;
        for (int k = 0; k < 8; ++k) fifth |= (LoadWord(row + 16 + 4 * k) >> j & kLowBits) << k;
        StoreWord(fifth, FifthWord(block, output));
      }
    }
  }

  static void Unpack(const std::byte* group, int output, std::byte* row) {
    std::memcpy(row, group + 2 * output, 2);
    std::memcpy(row + 2, group + 64 + 2 * output, 2);
    int scale[8], min[8];
    uint32_t fifth[8];
    for (int j = 0; j < 8; ++j) {
      const std::byte* block = group + kHead + j * kBlock;
      scale[j] = At(block, output);
      min[j] = At(block, 32 + output);
      if (j % 2 == 0)
        UnpackNibbles(NibbleWords(block, output), NibbleWords(block + kBlock, output), row + kQuants + 16 * j);
      if constexpr (kFifth) fifth[j] = LoadWord(FifthWord(block, output));
    }
    StoreKScales(scale, min, row + 4);
    for (int k = 0; kFifth && k < 8; ++k) {
      uint32_t bits = 0;
      for (int j = 0; j < 8; ++j) bits |= (fifth[j] >> k & kLowBits) << j;
      StoreWord(bits, row + 16 + 4 * k);
    }
  }
};

// Block j of eight is quarter j % 4 of a half: its nibbles are the (quarter / 2)-th of the half's vector quarter % 2.
struct Q6_K {
  static constexpr DType kType = DType::kQ6_K;
  static constexpr int kHead = PanelGroupOf(kType).head_bytes, kBlock = PanelGroupOf(kType).block_bytes;

  static void Pack(const std::byte* row, int output, std::byte* group) {
    std::memcpy(group + 2 * output, row + 208, 2);
    std::byte* block = group + kHead;
    for (int j = 0; j < 8; ++j, block += kBlock) {
      const int half = j / 4, quarter = j % 4;
      block[output] = row[192 + 2 * j];
      block[32 + output] = row[192 + 2 * j + 1];
      PackNibbles(row + 64 * half + 32 * (quarter % 2), 4 * (quarter / 2), NibbleWords(block, output));
      for (int u = 0; u < 2; ++u) {
        uint32_t upper = 0;
        for (int t = 0; t < 4; ++t)
          upper |= (LoadWord(row + 128 + 32 * half + 16 * u + 4 * t) >> 2 * quarter & kLowPairs) << 2 * t;
        StoreWord(upper, UpperWords(block, output) + 64 * u);
      }
    }
  }

  static void Unpack(const std::byte* group, int output, std::byte* row) {
    std::memcpy(row + 208, group + 2 * output, 2);
    for (int half = 0; half < 2; ++half) {
      const std::byte* blocks = group + kHead + 4 * half * kBlock;
      for (int quarter = 0; quarter < 4; ++quarter) {
        const std::byte* block = blocks + quarter * kBlock;
        row[192 + 2 * (4 * half + quarter)] = block[output];
        row[192 + 2 * (4 * half + quarter) + 1] = block[32 + output];
        if (quarter < 2)
          UnpackNibbles(NibbleWords(block, output), NibbleWords(block + 2 * kBlock, output),
                        row + 64 * half + 32 * quarter);
      }
      for (int word = 0; word < 8; ++word) {
        const int u = word / 4, t = word % 4;
        uint32_t bits = 0;
        for (int quarter = 0; quarter < 4; ++quarter)
          bits |= (LoadWord(UpperWords(blocks + quarter * kBlock, output) + 64 * u) >> 2 * t & kLowPairs)
                  << 2 * quarter;
        StoreWord(bits, row + 128 + 32 * half + 4 * word);
      }
    }
  }
};

// Group by group, so that the lines of the panel that a group lies in stay near while its rows come.
template <typename Type>
void PackRows(uint64_t columns, const std::byte* rows, int outputs, std::byte* to) {
  constexpr auto kStored = static_cast<uint64_t>(Info(Type::kType).bytes);
  const uint64_t row_bytes = RowBytes(Type::kType, columns);
  for (uint64_t at = 0; at < row_bytes; at += kStored, to += PanelGroupOf(Type::kType).bytes())
    for (int output = 0; output < outputs; ++output)
      Type::Pack(rows + static_cast<uint64_t>(output) * row_bytes + at, output, to);
}

template <typename Type>
void UnpackGroups(const std::byte* group, int output, uint64_t groups, std::byte* to) {
  for (uint64_t i = 0; i < groups; ++i, to += Info(Type::kType).bytes, group += PanelGroupOf(Type::kType).bytes())
    Type::Unpack(group, output, to);
}

// Calls visit(Type()) with the one of the above that moves `type`.
template <typename Visit>
void WithType(DType type, const Visit& visit) {
  switch (type) {
    case DType::kQ4_0:
      return visit(Q4_0());
    case DType::kQ8_0:
      return visit(Q8_0());
    case DType::kQ4_K:
      return visit(K<DType::kQ4_K>());
    case DType::kQ5_K:
      return visit(K<DType::kQ5_K>());
    case DType::kQ6_K:
      return visit(Q6_K());
    default:
      CHECK(HasPanels(type)) << Name(type);
  }
}

}  // namespace

void PackPanel(DType type, uint64_t columns, const std::byte* rows, int outputs, std::byte* to) {
  CHECK(outputs > 0 && outputs <= kPanelOutputs);
  if (outputs < kPanelOutputs) std::memset(to, 0, PanelBytes(type, columns));
  WithType(type, [&](auto t) { PackRows<decltype(t)>(columns, rows, outputs, to); });
}

void UnpackRow(DType type, const std::byte* panel, int output, uint64_t first, uint64_t columns, std::byte* to) {
  const auto elements = static_cast<uint64_t>(Info(type).elements);
  const std::byte* group = panel + PanelBytes(type, first);
  WithType(type, [&](auto t) { UnpackGroups<decltype(t)>(group, output, columns / elements, to); });
}

}  // namespace braid
