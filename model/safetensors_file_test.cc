#include "model/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <string_view>

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes) {
  std::string out(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(out.data(), &length, sizeof length);
  return out + header + std::string(data_bytes, '\0');
}

absl::StatusOr<std::vector<StoredTensor>> Parse(std::string_view bytes) {
  return ParseSafetensors(std::as_bytes(std::span(bytes)));
}

std::string Refusal(const std::string& header, size_t data_bytes) {
  const std::string bytes = File(header, data_bytes);
  const absl::Status status = Parse(bytes).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << header;
  return std::string(status.message());
}

// The refusal of a file with one tensor 't', 24 bytes of data.
std::string TensorRefusal(const std::string& entry) { return Refusal(R"({"t":)" + entry + "}", 24); }

constexpr char kValid[] =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
    R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"c":{"dtype":"F32","shape":[],"data_offsets":[20,24]}} )";

TEST(SafetensorsFile, ReadsTensorsInTheOrderOfTheirData) {
  const std::string bytes = File(kValid, 24);
  const auto tensors = Parse(bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].dtype, DType::kBF16);
  EXPECT_THAT((*tensors)[1].shape, ElementsAre(2, 3));
  EXPECT_EQ((*tensors)[1].data.size(), 12u);
  EXPECT_THAT((*tensors)[2].shape, ElementsAre());
}

TEST(SafetensorsFile, KnowsTypesItDoesNotComputeWith) {
  const std::string bytes = File(R"({"t":{"dtype":"I64","shape":[3],"data_offsets":[0,24]}})", 24);
  const auto tensors = Parse(bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ((*tensors)[0].dtype, std::nullopt);
  EXPECT_EQ((*tensors)[0].type, "I64");
}

TEST(SafetensorsFile, RefusesBadHeaders) {
  EXPECT_THAT(Refusal("", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(Refusal(" {}", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(Refusal("[1,2,3]", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(Refusal("{\"t\":", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refusal("{\"\xff\xfe\":1}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refusal("{}{}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("not a string"));
  EXPECT_THAT(Refusal(R"({"__metadata__":[]})", 0), HasSubstr("not an object"));
  EXPECT_THAT(Refusal("{\"a\":" + std::string(100000, '['), 0), HasSubstr("nested deeper"));
}

TEST(SafetensorsFile, RefusesLengthsThatTheFileCannotHold) {
  EXPECT_THAT(Parse("1234567").status().message(), HasSubstr("truncated"));
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes = File("{}", 0);
    std::memcpy(bytes.data(), &length, sizeof length);
    EXPECT_THAT(Parse(bytes).status().message(), HasSubstr("claims a header of"));
  }
}

TEST(SafetensorsFile, RefusesDuplicateNames) {
  const std::string tensor = R"("t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]})";
  EXPECT_THAT(Refusal("{" + tensor + "," + tensor + "}", 12), HasSubstr("'t' twice"));
  EXPECT_THAT(TensorRefusal(R"({"dtype":"F32","shape":[6],"shape":[6],"data_offsets":[0,24]})"),
              HasSubstr("'shape' twice"));
}

TEST(SafetensorsFile, RefusesBadOffsets) {
  for (const char* offsets : {"[24,0]", "[0,25]", "[0,18446744073709551615]"})
    EXPECT_THAT(TensorRefusal(std::string(R"({"dtype":"F32","shape":[6],"data_offsets":)") + offsets + "}"),
                HasSubstr("tensor 't': has data_offsets"))
        << offsets;
  for (const char* offsets : {"[-1,24]", "[0.0,24]", "[0,1e30]", "[0,18446744073709551616]", "[\"0\",24]"})
    EXPECT_THAT(TensorRefusal(std::string(R"({"dtype":"F32","shape":[6],"data_offsets":)") + offsets + "}"),
                HasSubstr("no whole number"))
        << offsets;
  for (const char* offsets : {"[0]", "[0,12,24]", "24", "null", "{}"})
    EXPECT_THAT(TensorRefusal(std::string(R"({"dtype":"F32","shape":[6],"data_offsets":)") + offsets + "}"),
                HasSubstr("two entries"))
        << offsets;
}

TEST(SafetensorsFile, RefusesBadShapes) {
  const auto refusal = [](const std::string& shape) {
    return TensorRefusal(R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,24]})");
  };
  EXPECT_THAT(refusal("[5]"), HasSubstr("24 bytes of data, its shape needs 20"));
  EXPECT_THAT(refusal("[4611686018427387904,4]"), HasSubstr("overflows"));  // wraps to 0
  EXPECT_THAT(refusal("[4611686018427387910]"), HasSubstr("overflows"));    // wraps to 24
  EXPECT_THAT(refusal("[6,-1]"), HasSubstr("no whole number"));
  EXPECT_THAT(refusal("[6,0]"), HasSubstr("length 0"));
  EXPECT_THAT(refusal("6"), HasSubstr("no shape"));
  EXPECT_THAT(refusal("[1,1,1,1,1,1,1,1,6]"), HasSubstr("9 dimensions"));
}

TEST(SafetensorsFile, RefusesBadEntries) {
  EXPECT_THAT(TensorRefusal("7"), HasSubstr("must have dtype"));
  EXPECT_THAT(TensorRefusal(R"({"dtype":"F33","shape":[6],"data_offsets":[0,24]})"), HasSubstr("unknown dtype 'F33'"));
  EXPECT_THAT(TensorRefusal(R"({"dtype":5,"shape":[6],"data_offsets":[0,24]})"), HasSubstr("not a string"));
  EXPECT_THAT(TensorRefusal(R"({"dtype":"F32","shape":[6],"data_offsets":[0,24],"more":1})"), HasSubstr("no more"));
}

TEST(SafetensorsFile, RefusesOverlapsHolesAndLeftovers) {
  const auto two = [](const char* first, const char* second) {
    return std::string(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)") + first +
           R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + second + "}}";
  };
  EXPECT_THAT(Refusal(two("[0,8]", "[4,12]"), 12), HasSubstr("'b' overlaps"));
  EXPECT_THAT(Refusal(two("[0,8]", "[0,8]"), 8), HasSubstr("overlaps"));
  EXPECT_THAT(Refusal(two("[0,8]", "[12,20]"), 20), HasSubstr("'b' leaves a hole"));
  EXPECT_THAT(Refusal(two("[0,8]", "[8,16]"), 20), HasSubstr("last 4 bytes"));
}

TEST(SafetensorsFile, RefusesAFileCutAtAnyByte) {
  const std::string bytes = File(kValid, 24);
  for (size_t length = 0; length < bytes.size(); ++length) {
    const std::string cut = bytes.substr(0, length);
    EXPECT_TRUE(absl::IsInvalidArgument(Parse(cut).status())) << length;
  }
}

TEST(SafetensorsFile, KeepsEveryTensorInsideAMutatedFile) {
  const std::string bytes = File(kValid, 24);
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    std::string mutated = bytes;
    mutated[random() % (bytes.size() - 24)] = static_cast<char>(random());
    const auto tensors = Parse(mutated);
    if (!tensors.ok()) continue;
    for (const StoredTensor& tensor : *tensors) {
      const auto* begin = reinterpret_cast<const char*>(tensor.data.data());
      ASSERT_GE(begin, mutated.data());
      ASSERT_LE(begin + tensor.data.size(), mutated.data() + mutated.size());
    }
  }
}

}  // namespace
}  // namespace braid
