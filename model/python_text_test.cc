#include "model/python_text.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace braid {
namespace {

using Json = nlohmann::ordered_json;

TEST(PythonText, WritesJsonAsPythonDoes) {
  EXPECT_EQ(ToPythonJson(Json::parse(R"({"b":[1,true,null,{}],"a":{"x":-2.5},"e":[]})")),
            R"({"b": [1, true, null, {}], "a": {"x": -2.5}, "e": []})");
  EXPECT_EQ(ToPythonJson("</a>&'é😀\x7f\u2028"), "\"</a>&'é😀\x7f\u2028\"");
  EXPECT_EQ(ToPythonJson(std::string("\"\\\n\r\t\b\f\x01\0", 9)), R"("\"\\\n\r\t\b\f\u0001\u0000")");
}

TEST(PythonText, WritesStrAndRepr) {
  EXPECT_EQ(ToPythonStr("it's"), "it's");
  EXPECT_EQ(ToPythonStr(true), "True");
  EXPECT_EQ(ToPythonStr(nullptr), "None");
  EXPECT_EQ(ToPythonStr(Json::parse(R"(["p",1,true,null,{"q":"r"}])")), "['p', 1, True, None, {'q': 'r'}]");
}

TEST(PythonText, QuotesStringsAsReprDoes) {
  const auto repr = [](const std::string& text) { return ToPythonStr(Json::array({text})); };
  EXPECT_EQ(repr("it's"), "[\"it's\"]");
  EXPECT_EQ(repr("say \"hi\""), "['say \"hi\"']");
  EXPECT_EQ(repr("both ' and \""), "['both \\' and \"']");
  EXPECT_EQ(repr("\\\n\t\r\x1b\x7f"), "['\\\\\\n\\t\\r\\x1b\\x7f']");
  EXPECT_EQ(repr("é漢\u00a0\u200b\U000e0001"), "['é漢\\xa0\\u200b\\U000e0001']");
}

TEST(PythonText, WritesFloatsAsReprDoes) {
  EXPECT_EQ(ToPythonStr(1.0), "1.0");
  EXPECT_EQ(ToPythonStr(-0.0), "-0.0");
  EXPECT_EQ(ToPythonStr(0.1), "0.1");
  EXPECT_EQ(ToPythonStr(1e-4), "0.0001");
  EXPECT_EQ(ToPythonStr(1e-5), "1e-05");
  EXPECT_EQ(ToPythonStr(1e15), "1000000000000000.0");
  EXPECT_EQ(ToPythonStr(1e16), "1e+16");
  EXPECT_EQ(ToPythonStr(1.25e22), "1.25e+22");
  EXPECT_EQ(ToPythonStr(5e-324), "5e-324");
  EXPECT_EQ(ToPythonStr(123456.789), "123456.789");
  EXPECT_EQ(ToPythonStr(std::numeric_limits<uint64_t>::max()), "18446744073709551615");
}

TEST(PythonText, DepthIsNoDanger) {
  Json deep = Json::array();
  for (int i = 0; i < 100000; ++i) deep = Json::array({std::move(deep)});
  EXPECT_EQ(ToPythonJson(deep).size(), 200002u);
}

TEST(PythonText, StripsWhatPythonStrips) {
  EXPECT_EQ(PythonStrip(" \t\n\x1c\u3000\u0085 a b \u2028\x1f\n"), "a b");
  EXPECT_EQ(PythonStrip("\u200ba\u200b"), "\u200ba\u200b");
  EXPECT_EQ(PythonStrip(" \u3000 "), "");
  EXPECT_EQ(PythonStrip(""), "");
}

}  // namespace
}  // namespace braid
