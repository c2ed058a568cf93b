#include "model/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <utility>

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

template <typename T>
std::string Raw(T value) {
  std::string raw(sizeof(T), '\0');
  std::memcpy(raw.data(), &value, sizeof(T));
  return raw;
}

std::string Text(std::string_view text) { return Raw(uint64_t{text.size()}) + std::string(text); }

std::string Key(std::string_view name, GgufType type, const std::string& value) {
  return Text(name) + Raw(static_cast<uint32_t>(type)) + value;
}

std::string Array(GgufType type, uint64_t count, const std::string& elements) {
  return Raw(static_cast<uint32_t>(type)) + Raw(count) + elements;
}

struct TensorInfo {
  std::string name = "t";
  std::vector<uint64_t> dimensions = {32};
  uint32_t type = 0;
  uint64_t offset = 0;
};

// A GGUF file of parts that need not be right.
struct Builder {
  uint32_t magic = kGgufMagic;
  uint32_t version = 3;
  std::vector<std::string> keys = {};
  std::vector<TensorInfo> tensors = {};
  size_t data_bytes = 0;
  std::optional<uint64_t> key_count = {}, tensor_count = {};
  size_t alignment = 32;

  std::string Header() const {
    std::string out =
        Raw(magic) + Raw(version) + Raw(tensor_count.value_or(tensors.size())) + Raw(key_count.value_or(keys.size()));
    for (const std::string& key : keys) out += key;
    for (const TensorInfo& tensor : tensors) {
      out += Text(tensor.name) + Raw(static_cast<uint32_t>(tensor.dimensions.size()));
      for (const uint64_t dimension : tensor.dimensions) out += Raw(dimension);
      out += Raw(tensor.type) + Raw(tensor.offset);
    }
    return out;
  }

  std::string Build() const {
    std::string out = Header();
    out.resize((out.size() + alignment - 1) / alignment * alignment + data_bytes);
    return out;
  }
};

absl::StatusOr<GgufFile> Parse(std::string_view bytes) { return GgufFile::Parse(std::as_bytes(std::span(bytes))); }

std::string Refusal(const Builder& builder) {
  const std::string bytes = builder.Build();
  const absl::Status status = Parse(bytes).status();
  EXPECT_NE(status.code(), absl::StatusCode::kOk);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status));
  return std::string(status.message());
}

std::string KeyRefusal(const std::string& key) { return Refusal({.keys = {key}}); }

std::string TensorRefusal(const TensorInfo& tensor, size_t data_bytes = 4096) {
  return Refusal({.tensors = {tensor}, .data_bytes = data_bytes});
}

// One of everything that is well-formed.
Builder Valid() {
  return {.keys = {Key("u8", GgufType::kUint8, Raw(uint8_t{200})), Key("i8", GgufType::kInt8, Raw(int8_t{-3})),
                   Key("u64", GgufType::kUint64, Raw(std::numeric_limits<uint64_t>::max())),
                   Key("f32", GgufType::kFloat32, Raw(0.5f)), Key("f64", GgufType::kFloat64, Raw(0.25)),
                   Key("bool", GgufType::kBool, Raw(uint8_t{1})), Key("text", GgufType::kString, Text("hello")),
                   Key("u16s", GgufType::kArray, Array(GgufType::kUint16, 2, Raw(uint16_t{7}) + Raw(uint16_t{65535}))),
                   Key("strings", GgufType::kArray, Array(GgufType::kString, 2, Text("a") + Text(""))),
                   Key("general.alignment", GgufType::kUint32, Raw(uint32_t{64}))},
          .tensors = {{"matrix", {64, 3}, 2, 128}, {"vector", {5}, 0, 0}},
          .data_bytes = 128 + 3 * 36,
          .alignment = 64};
}

TEST(GgufFile, ReadsEveryTypeOfKey) {
  const std::string bytes = Valid().Build();
  const absl::StatusOr<GgufFile> file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(*file->Integer("u8", 0, 255), Optional(200));
  EXPECT_THAT(*file->Integer("i8", -10, 255), Optional(-3));
  EXPECT_THAT(*file->Number("f32"), Optional(0.5));
  EXPECT_THAT(*file->Number("f64"), Optional(0.25));
  EXPECT_THAT(*file->Bool("bool"), Optional(true));
  EXPECT_THAT(*file->String("text"), Optional(std::string_view("hello")));
  EXPECT_THAT(*file->Integers("u16s", 9), Optional(ElementsAre(7, 65535)));
  EXPECT_THAT(*file->Strings("strings", 9), Optional(ElementsAre("a", "")));
  EXPECT_EQ(*file->Integer("absent", 0, 1), std::nullopt);
  EXPECT_EQ(*file->Strings("absent", 1), std::nullopt);
}

TEST(GgufFile, RefusesAKeyOfAnotherKindByName) {
  const std::string bytes = Valid().Build();
  const absl::StatusOr<GgufFile> file = Parse(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_THAT(file->Integer("text", 0, 1).status().message(), HasSubstr("'text' is not an integer"));
  EXPECT_THAT(file->Integer("u8", 0, 10).status().message(), HasSubstr("'u8' is 200"));
  EXPECT_THAT(file->Integer("u64", 0, 10).status().message(), HasSubstr("above 2^63"));
  EXPECT_THAT(file->Bool("u8").status().message(), HasSubstr("not a bool"));
  EXPECT_THAT(file->Integers("strings", 9).status().message(), HasSubstr("not an array of integers"));
  EXPECT_THAT(file->Strings("u16s", 9).status().message(), HasSubstr("not an array of strings"));
  EXPECT_THAT(file->Integers("u16s", 1).status().message(), HasSubstr("at most 1"));
}

TEST(GgufFile, PlacesTensorsWithTheContiguousDimensionLast) {
  const std::string bytes = Valid().Build();
  const absl::StatusOr<GgufFile> file = Parse(bytes);
  ASSERT_TRUE(file.ok());
  const StoredTensor& matrix = file->tensors()[0];
  EXPECT_EQ(matrix.name, "matrix");
  EXPECT_EQ(matrix.dtype, DType::kQ4_0);
  EXPECT_THAT(matrix.shape, ElementsAre(3, 64));
  EXPECT_EQ(matrix.data.size(), 3 * 2 * 18u);
  EXPECT_EQ(reinterpret_cast<const char*>(matrix.data.data() + matrix.data.size()), bytes.data() + bytes.size());
}

TEST(GgufFile, RefusesWhatIsNoGguf) {
  EXPECT_THAT(Refusal({.magic = 0x46554746}), HasSubstr("not a GGUF file"));
  EXPECT_THAT(Refusal({.version = 1}), HasSubstr("version 1"));
  EXPECT_THAT(Refusal({.version = 99}), HasSubstr("version 99"));
  EXPECT_THAT(Refusal({.version = 0x03000000}), HasSubstr("big-endian"));
}

TEST(GgufFile, RefusesCountsThatTheFileCannotHold) {
  for (const uint64_t count : {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{1} << 40, uint64_t{100}}) {
    EXPECT_THAT(Refusal({.key_count = count}), HasSubstr("keys"));
    EXPECT_THAT(Refusal({.tensor_count = count}), HasSubstr("tensors"));
  }
}

TEST(GgufFile, RefusesLengthsThatTheFileCannotHold) {
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7, uint64_t{1000}}) {
    EXPECT_THAT(KeyRefusal(Raw(length) + "key and more than enough bytes"), HasSubstr("truncated"));
    EXPECT_THAT(KeyRefusal(Key("k", GgufType::kString, Raw(length))), HasSubstr("key 'k': truncated"));
    EXPECT_THAT(KeyRefusal(Key("k", GgufType::kArray, Array(GgufType::kUint32, length, ""))), HasSubstr("truncated"));
    EXPECT_THAT(KeyRefusal(Key("k", GgufType::kArray, Array(GgufType::kString, length, ""))), HasSubstr("truncated"));
  }
  // 2^62 elements of 4 bytes are 2^64 bytes, which wraps to none.
  EXPECT_THAT(KeyRefusal(Key("k", GgufType::kArray, Array(GgufType::kUint32, uint64_t{1} << 62, ""))),
              HasSubstr("truncated"));
}

TEST(GgufFile, RefusesBadKeys) {
  EXPECT_THAT(KeyRefusal(Key("", GgufType::kUint8, Raw(uint8_t{1}))), HasSubstr("empty name"));
  EXPECT_THAT(KeyRefusal(Key("k", static_cast<GgufType>(13), Raw(uint8_t{1}))), HasSubstr("unknown value type 13"));
  EXPECT_THAT(KeyRefusal(Key("k", GgufType::kBool, Raw(uint8_t{7}))), HasSubstr("bool of value 7"));
  const std::string key = Key("twice", GgufType::kUint8, Raw(uint8_t{1}));
  EXPECT_THAT(Refusal({.keys = {key, key}}), HasSubstr("'twice' appears twice"));
}

TEST(GgufFile, RefusesNestedArrays) {
  std::string nested = Array(GgufType::kUint8, 1, "x");
  for (int depth = 0; depth < 10000; ++depth) nested = Raw(uint32_t{9}) + Raw(uint64_t{1}) + nested;
  EXPECT_THAT(KeyRefusal(Key("k", GgufType::kArray, nested)), HasSubstr("arrays of arrays"));
}

TEST(GgufFile, RefusesBadAlignments) {
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    EXPECT_THAT(KeyRefusal(Key("general.alignment", GgufType::kUint32, Raw(alignment))),
                HasSubstr("general.alignment"));
  }
}

TEST(GgufFile, RefusesBadShapes) {
  EXPECT_THAT(TensorRefusal({.dimensions = {}}), HasSubstr("tensor 't': has 0 dimensions"));
  EXPECT_THAT(TensorRefusal({.dimensions = {1, 1, 1, 1, 1}}), HasSubstr("has 5 dimensions"));
  EXPECT_THAT(TensorRefusal({.dimensions = {32, 0}}), HasSubstr("length 0"));
  EXPECT_THAT(TensorRefusal({.dimensions = {~uint64_t{0}}}), HasSubstr("length 18446744073709551615"));
  const uint64_t huge = uint64_t{1} << 62;
  EXPECT_THAT(TensorRefusal({.dimensions = {4, huge}}), HasSubstr("overflows"));   // wraps to 0
  EXPECT_THAT(TensorRefusal({.dimensions = {huge + 1}}), HasSubstr("overflows"));  // wraps to 4
  EXPECT_THAT(TensorRefusal({.dimensions = {1u << 31, 1u << 31, 1u << 31}}), HasSubstr("overflows"));
  EXPECT_THAT(TensorRefusal({.dimensions = {33}, .type = 2}), HasSubstr("not a multiple of the 32 of a Q4_0 block"));
  EXPECT_THAT(TensorRefusal({.dimensions = {128}, .type = 12}), HasSubstr("not a multiple of the 256"));
}

TEST(GgufFile, NamesATypeThatIsNotSupported) {
  EXPECT_THAT(TensorRefusal({.name = "blk.0.w", .type = 23}), HasSubstr("tensor 'blk.0.w': is of type IQ4_XS"));
  EXPECT_THAT(TensorRefusal({.type = 4}), HasSubstr("unknown (4)"));
  EXPECT_THAT(TensorRefusal({.type = 200}), HasSubstr("unknown (200)"));
  EXPECT_THAT(TensorRefusal({.type = ~0u}), HasSubstr("unknown (4294967295)"));
}

TEST(GgufFile, RefusesTensorsOutsideTheData) {
  EXPECT_THAT(TensorRefusal({.offset = 7}), HasSubstr("not a multiple of the alignment"));
  EXPECT_THAT(TensorRefusal({.offset = 4096}), HasSubstr("past the end"));
  EXPECT_THAT(TensorRefusal({.offset = 0}, 127), HasSubstr("past the end"));
  EXPECT_THAT(TensorRefusal({.offset = ~uint64_t{0} - 31}), HasSubstr("past the end"));  // wraps to just below the data
}

TEST(GgufFile, RefusesTensorsThatShareBytesOrNames) {
  EXPECT_THAT(Refusal({.tensors = {{.name = "a"}, {.name = "b", .offset = 96}}, .data_bytes = 4096}),
              HasSubstr("tensors 'a' and 'b' overlap"));
  EXPECT_THAT(Refusal({.tensors = {{.name = "a"}, {.name = "a", .offset = 128}}, .data_bytes = 4096}),
              HasSubstr("'a' appears twice"));
}

TEST(GgufFile, RefusesAFileCutAtAnyByteOfItsHeader) {
  const std::string bytes = Valid().Build();
  for (size_t length = 0; length < bytes.size(); ++length) {
    const std::string cut = bytes.substr(0, length);  // a buffer of its own, so that a sanitizer sees a read beyond it
    EXPECT_TRUE(absl::IsInvalidArgument(Parse(cut).status())) << length;
  }
}

TEST(GgufFile, KeepsEveryTensorInsideAMutatedFile) {
  const std::string bytes = Valid().Build();
  const size_t header_bytes = Valid().Header().size();
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string mutated = bytes;
    mutated[random() % header_bytes] = static_cast<char>(random());
    const absl::StatusOr<GgufFile> file = Parse(mutated);
    if (!file.ok()) continue;
    for (const StoredTensor& tensor : file->tensors()) {
      const auto* begin = reinterpret_cast<const char*>(tensor.data.data());
      ASSERT_GE(begin, mutated.data());
      ASSERT_LE(begin + tensor.data.size(), mutated.data() + mutated.size());
    }
  }
}

}  // namespace
}  // namespace braid
