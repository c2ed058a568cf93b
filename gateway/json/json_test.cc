#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gateway/json/cursor.h"
#include "gateway/json/reader.h"
#include "gateway/json/writer.h"

namespace braid {
namespace {

std::string Nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }
bool Accepts(std::string_view text) { return std::holds_alternative<Json>(ReadJson(text)); }
std::string Problem(std::string_view text) {
  const auto result = ReadJson(text);
  const auto* error = std::get_if<ApiError>(&result);
  EXPECT_TRUE(error == nullptr || error->code == "invalid_json");
  return error ? error->message : "accepted";
}

TEST(JsonReader, ReadsWhatTheStandardAllows) {
  const char* good[] = {"null",
                        "0",
                        "-0",
                        "1e5",
                        "\"\"",
                        "[]",
                        "{}",
                        " {\"a\" : [1, 2]}\n",
                        R"("\ud83d\ude00")",
                        R"("\u0000")",
                        "{\"a\":{\"a\":1}}",
                        "[{\"a\":1},{\"a\":1}]"};
  for (const char* text : good) EXPECT_TRUE(Accepts(text)) << text;
}

TEST(JsonReader, RefusesWhatTheStandardForbids) {
  const std::string bad[] = {"",
                             " ",
                             "{",
                             "[1,]",
                             "{\"a\":1,}",
                             "{a:1}",
                             "{'a':1}",
                             "// comment\n1",
                             "1 /* x */",
                             "NaN",
                             "Infinity",
                             "-",
                             "01",
                             "+1",
                             ".5",
                             "1 2",
                             "{} x",
                             "\"a\nb\"",
                             "\"\\x\"",
                             "\"abc",
                             "\xEF\xBB\xBF{}",
                             std::string("{}\0{}", 5),
                             std::string("\"a\0b\"", 5)};
  for (const std::string& text : bad) EXPECT_FALSE(Accepts(text)) << text;
}

TEST(JsonReader, RefusesTextThatIsNotUtf8) {
  const char* bad[] = {"\"\xC0\xAF\"", "\"\xE2\x82\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"",
                       "\"\x80\"",     "\"\\ud800\"",  "\"\\udc00\"",      "\"\\ud800\\u0041\""};
  for (const char* text : bad) EXPECT_FALSE(Accepts(text)) << text;
}

TEST(JsonReader, RefusesTheSameKeyTwiceInOneObject) {
  EXPECT_THAT(Problem(R"({"n":1,"n":1000})"), testing::HasSubstr("same key twice"));
  EXPECT_THAT(Problem(R"({"a":{"b":1,"b":1}})"), testing::HasSubstr("same key twice"));
  EXPECT_THAT(Problem(R"({"n":1,"\u006e":2})"), testing::HasSubstr("same key twice"));
}

TEST(JsonReader, RefusesNumbersBeyondADouble) { EXPECT_THAT(Problem("[1e400]"), testing::HasSubstr("too large")); }

TEST(JsonReader, LimitsTheDepth) {
  EXPECT_TRUE(Accepts(Nested(kJsonDepthMax)));
  for (int depth : {kJsonDepthMax + 1, 129, 10'000, 1'000'000})
    EXPECT_THAT(Problem(Nested(depth)), testing::HasSubstr("deeper than 64"));
}

TEST(JsonReader, LimitsTheValues) {
  std::string many = "[0";
  for (size_t i = 0; i < kJsonValuesMax; ++i) many += ",0";
  EXPECT_THAT(Problem(many + "]"), testing::HasSubstr("more than"));
}

TEST(JsonReader, ReadsAnObjectOfManyKeysInLinearTime) {
  std::string text = "{\"\":0";
  for (int i = 0; i < 300'000; ++i) text += ",\"" + std::to_string(i) + "\":0";
  EXPECT_TRUE(Accepts(text + "}"));
}

TEST(JsonReader, RefusesEveryTruncation) {
  const std::string text = R"({"a":[1.5,"x\u00e4",true,null],"b":{"c":-2}})";
  ASSERT_TRUE(Accepts(text));
  for (size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(Accepts(text.substr(0, n))) << n;
}

TEST(JsonReader, SaysWhereAndNeverRepeatsTheText) {
  const std::string problem = Problem("{\"a\": 1,\n \"b\": secret}");
  EXPECT_THAT(problem, testing::HasSubstr("line 2, byte 7"));
  EXPECT_THAT(problem, testing::Not(testing::HasSubstr("secret")));
}

TEST(JsonReader, KeepsTheOrderOfKeys) {
  const auto json = ReadJson(R"({"z":1,"a":2,"m":3})");
  EXPECT_EQ(std::get<Json>(json).dump(), R"({"z":1,"a":2,"m":3})");
}

template <typename T>
std::optional<T> ReadAs(std::string_view text, std::optional<ApiError>* error) {
  const Json json = std::get<Json>(ReadJson(text));
  T value;
  return JsonCursor(json, error).Read(&value) ? std::optional<T>(value) : std::nullopt;
}

TEST(JsonCursor, ReadsIntegersExactlyOrNotAtAll) {
  std::optional<ApiError> error;
  EXPECT_EQ(ReadAs<int64_t>("9007199254740993", &error), 9007199254740993);
  EXPECT_EQ(ReadAs<int64_t>("-9223372036854775808", &error), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(ReadAs<int64_t>("9223372036854775807", &error), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(ReadAs<int64_t>("3.0", &error), 3);
  EXPECT_EQ(ReadAs<int64_t>("-0", &error), 0);
  EXPECT_EQ(error, std::nullopt);
  for (const char* bad : {"9223372036854775808", "18446744073709551616", "1e300", "1.5", "\"1\"", "true", "null", "[]"})
    EXPECT_EQ(ReadAs<int64_t>(bad, &error), std::nullopt) << bad;
}

TEST(JsonCursor, NamesThePathOfWhatIsWrong) {
  const Json json = std::get<Json>(ReadJson(R"({"messages":[{},{"content":[{"text":5}]}]})"));
  std::optional<ApiError> error;
  const JsonCursor root(json, &error);
  const JsonCursor messages = root.Member("messages", json["messages"]);
  const JsonCursor message = messages.Element(1);
  const JsonCursor content = message.Member("content", message.value()["content"]);
  const JsonCursor part = content.Element(0);
  std::string text;
  EXPECT_FALSE(part.Member("text", part.value()["text"]).Read(&text));
  EXPECT_EQ(error->param, "messages[1].content[0].text");
  EXPECT_EQ(error->code, "invalid_type");
  EXPECT_EQ(error->message, "'messages[1].content[0].text' must be a string, not a number.");
}

TEST(JsonCursor, ShortensNamesItRepeatsAtACharacter) {
  std::string name = "x";
  for (int i = 0; i < 1000; ++i) name += "ä";
  const Json json = {{name, 1}};
  std::optional<ApiError> error;
  EXPECT_FALSE(ReadMembers(JsonCursor(json, &error), [](auto, const auto&) { return FieldResult::kNotHere; }));
  EXPECT_LE(error->param.size(), 64u);
  EXPECT_TRUE(IsUtf8(error->param));
  EXPECT_EQ(error->code, "unknown_field");
}

std::string Written(std::string_view text) {
  std::string out;
  JsonWriter(&out).String(text);
  return out;
}

TEST(JsonWriter, EscapesWhatJsonMust) {
  EXPECT_EQ(Written("a\"b\\c\n\r\t"), R"("a\"b\\c\n\r\t")");
  EXPECT_EQ(Written(std::string("\0\x1f\x7f", 3)), R"("\u0000\u001f\u007f")");
  EXPECT_EQ(Written("äö €😀"), "\"äö €😀\"");
}

TEST(JsonWriter, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(Written("a\xFFz"), "\"a\uFFFDz\"");
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string bytes = {static_cast<char>(first), static_cast<char>(second)};
      EXPECT_TRUE(Accepts(Written(bytes))) << first << " " << second;
    }
  }
}

TEST(JsonWriter, PlacesCommas) {
  std::string out;
  JsonWriter json(&out);
  json.BeginObject().Key("a").BeginArray().Int(1).Int(-2).BeginObject().EndObject().EndArray();
  json.Key("b").Null().Key("c").Bool(true).Key("d").Uint(18446744073709551615u).EndObject();
  EXPECT_EQ(out, R"({"a":[1,-2,{}],"b":null,"c":true,"d":18446744073709551615})");
}

TEST(JsonWriter, WritesFloatsThatParseBackToTheSameBits) {
  std::vector<float> values = {0.0f, -0.0f, 1.0f, -0.1f, -1e-30f, 3.4028235e38f, 1.17549435e-38f, 1e-45f, -12.345679f};
  for (uint32_t bits = 1; bits < 0x7F000000u; bits += 9'999'991u) values.push_back(std::bit_cast<float>(bits));
  for (float value : values) {
    std::string out;
    JsonWriter(&out).Float(value);
    const double parsed = std::get<Json>(ReadJson(out)).get<double>();
    EXPECT_EQ(parsed, static_cast<double>(value)) << out;
    EXPECT_EQ(std::bit_cast<uint32_t>(static_cast<float>(parsed)), std::bit_cast<uint32_t>(value)) << out;
  }
}

TEST(JsonWriter, HasAnAnswerForFloatsJsonDoesNotKnow) {
  std::string out;
  JsonWriter json(&out);
  json.BeginArray().Float(std::nanf("")).Float(-std::numeric_limits<float>::infinity()).EndArray();
  EXPECT_EQ(out, "[null,-9999]");
}

}  // namespace
}  // namespace braid
