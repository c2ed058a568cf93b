#include "gateway/core/call_syntax.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace braid {
namespace {

// One line per item: "name {arguments}", or "text: ..." for what is no call.
std::string Parse(std::string_view body, bool complete = true) {
  std::string lines;
  for (const BlockItem& item : ParseCallBlock(body, complete)) {
    if (!lines.empty()) lines += '\n';
    if (const auto* call = std::get_if<ModelCall>(&item)) {
      EXPECT_TRUE(nlohmann::json::accept(call->arguments)) << call->arguments;
      lines += call->name + " " + call->arguments;
    } else {
      lines += "text: " + std::get<std::string>(item);
    }
  }
  return lines;
}

TEST(CallSyntax, ReadsPythonicCalls) {
  EXPECT_EQ(Parse(R"([get_weather(city="Oslo", days=3)])"), R"(get_weather {"city": "Oslo", "days": 3})");
  EXPECT_EQ(Parse("[now()]"), "now {}");
  EXPECT_EQ(Parse("[a(x=1), b(y='2'),]"), "a {\"x\": 1}\nb {\"y\": \"2\"}");
  EXPECT_EQ(Parse("[ f ( a = 1 , b = 2 , ) ]"), R"(f {"a": 1, "b": 2})");
}

TEST(CallSyntax, ReadsJsonCalls) {
  EXPECT_EQ(Parse(R"([{"name": "f", "arguments": {"a": [1, {"b": null}]}}])"), R"(f {"a": [1, {"b": null}]})");
  EXPECT_EQ(Parse(R"({"name": "f", "arguments": {}})"), "f {}");
  EXPECT_EQ(Parse(R"({"name": "f"})"), "f {}");
  EXPECT_EQ(Parse(R"({"name": "f", "parameters": {"a": 1}})"), R"(f {"a": 1})");
  EXPECT_EQ(Parse(R"([{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}])"), R"(f {"a": 1})");
  EXPECT_EQ(Parse("{\"name\": \"f\"}\n{\"name\": \"g\"}"), "f {}\ng {}");
  EXPECT_EQ(Parse(R"([{"name": "f", "arguments": {"u": "a\/b \ud83d\ude00 \u00e9"}}])"), R"(f {"u": "a/b 😀 é"})");
}

TEST(CallSyntax, ReadsBothFormsInOneList) {
  EXPECT_EQ(Parse(R"([f(a=1), {"name": "g", "arguments": {}}])"), "f {\"a\": 1}\ng {}");
}

TEST(CallSyntax, ReadsArgumentsThatAreJsonInsideAString) {
  EXPECT_EQ(Parse(R"([{"name": "f", "arguments": "{\"a\": \"x\\ny\"}"}])"), R"(f {"a": "x\ny"})");
  EXPECT_EQ(Parse(R"([{"name": "f", "arguments": ""}])"), R"(text: {"name": "f", "arguments": ""})");
  EXPECT_EQ(Parse(R"([{"name": "f", "arguments": [1]}])"), R"(text: {"name": "f", "arguments": [1]})");
}

// --- Problems that other servers had with these models' calls. ---

TEST(CallSyntaxProblem, BracketsInsideStrings) {
  EXPECT_EQ(Parse(R"x([run(command='grep -F "]" log.txt | tr ")" "("')])x"),
            R"x(run {"command": "grep -F \"]\" log.txt | tr \")\" \"(\""})x");
}

TEST(CallSyntaxProblem, RawLineBreaksInsideStrings) {
  EXPECT_EQ(Parse("[run(command='cat > f.py << EOF\nprint(1)\nEOF')]"),
            R"(run {"command": "cat > f.py << EOF\nprint(1)\nEOF"})");
  EXPECT_EQ(Parse("[run(command=\"a\nb\", n=1)]"), R"(run {"command": "a\nb", "n": 1})");
}

TEST(CallSyntaxProblem, TrailingBackslash) {
  EXPECT_EQ(Parse(R"([f(content='pattern \\')])"), R"(f {"content": "pattern \\"})");
  EXPECT_EQ(Parse(R"([f(dir='C:\dir\', n=1)])"), R"(f {"dir": "C:\\dir\\", "n": 1})");
  EXPECT_EQ(Parse(R"([f(dir='C:\dir\')])"), R"(f {"dir": "C:\\dir\\"})");
}

TEST(CallSyntaxProblem, RawBackslashes) {
  EXPECT_EQ(Parse(R"([f(path='C:\Users\me')])"), R"(f {"path": "C:\\Users\\me"})");
  EXPECT_EQ(Parse(R"([f(re='\d+\.\w')])"), R"(f {"re": "\\d+\\.\\w"})");
}

TEST(CallSyntaxProblem, EscapesAreDecodedOnce) {
  EXPECT_EQ(Parse(R"x([python(code='print(1)\nprint(2)')])x"), R"x(python {"code": "print(1)\nprint(2)"})x");
  EXPECT_EQ(Parse(R"([f(a='it\'s', b="say \"hi\"", c='\x41\u00e9\U0001F600\101')])"),
            R"(f {"a": "it's", "b": "say \"hi\"", "c": "Aé😀A"})");
}

TEST(CallSyntaxProblem, ApostropheInsideSingleQuotes) {
  EXPECT_EQ(Parse("[f(a='it's a test')]"), R"(f {"a": "it's a test"})");
  EXPECT_EQ(Parse("[f(a='it's, well', b='don't')]"), R"(f {"a": "it's, well", "b": "don't"})");
  EXPECT_EQ(Parse("[f(a='he said 'yes', then left', n=1)]"), R"(f {"a": "he said 'yes', then left", "n": 1})");
  EXPECT_EQ(Parse("[f(a=['it's', 'b'], c={'k': 'don't'})]"), R"(f {"a": ["it's", "b"], "c": {"k": "don't"}})");
  EXPECT_EQ(Parse("[f(a='(it's) so')]"), R"(f {"a": "(it's) so"})");
}

TEST(CallSyntaxProblem, NestedQuotes) {
  EXPECT_EQ(Parse(R"([f(a='it's "x"', b="y 'z'")])"), R"(f {"a": "it's \"x\"", "b": "y 'z'"})");
  EXPECT_EQ(Parse(R"([f(a="he said "hi" to me", n=1)])"), R"(f {"a": "he said \"hi\" to me", "n": 1})");
}

TEST(CallSyntaxProblem, WhatTheChatTemplateTeaches) {
  EXPECT_EQ(
      Parse("[f(a='it's \"x\"\nline2', n=3, x=1.5, t=True, z=None, o={\"k\": [1, true, null]}, l=['p', 1, True, None, "
            "{'q': 'r'}], u='é'), g.h()]"),
      "f {\"a\": \"it's \\\"x\\\"\\nline2\", \"n\": 3, \"x\": 1.5, \"t\": true, \"z\": null, \"o\": {\"k\": [1, "
      "true, null]}, \"l\": [\"p\", 1, true, null, {\"q\": \"r\"}], \"u\": \"é\"}\ng.h {}");
}

TEST(CallSyntaxProblem, NegativeNumbersAndUnaryPlus) {
  EXPECT_EQ(Parse("[f(a=-74.0046539, b=-3, c=+5, d=[-1, +2.5])]"),
            R"(f {"a": -74.0046539, "b": -3, "c": 5, "d": [-1, 2.5]})");
}

TEST(CallSyntaxProblem, LeadingZeros) {
  EXPECT_EQ(Parse("[f(month=07, n=-007, z=0, zz=00, x=0.50)]"),
            R"(f {"month": 7, "n": -7, "z": 0, "zz": 0, "x": 0.50})");
}

TEST(CallSyntaxProblem, NumbersWiderThanJson) {
  EXPECT_EQ(Parse("[f(a=1., b=.5, c=1_000, d=0x1F, e=1E+5, f=2e-3)]"),
            R"(f {"a": 1.0, "b": 0.5, "c": 1000, "d": 31, "e": 1e+5, "f": 2e-3})");
  EXPECT_EQ(Parse("[f(big=123456789012345678901234567890)]"), R"(f {"big": 123456789012345678901234567890})");
}

TEST(CallSyntaxProblem, InfinityIsNotJson) {
  EXPECT_EQ(Parse("[f(a=1e999, b=-1e999)]"), R"(f {"a": "1e999", "b": "-1e999"})");
  EXPECT_EQ(Parse("[f(a=inf)]"), "text: f(a=inf)");
  EXPECT_EQ(Parse("[f(a=NaN)]"), "text: f(a=NaN)");
}

TEST(CallSyntaxProblem, TuplesAndSetsBecomeArrays) {
  EXPECT_EQ(Parse("[f(size=(800, 600), one=(1,), paren=(1), none=(), s={1, 2}, t={'a'})]"),
            R"(f {"size": [800, 600], "one": [1], "paren": 1, "none": [], "s": [1, 2], "t": ["a"]})");
}

TEST(CallSyntaxProblem, ReservedWordsAsArgumentNames) {
  EXPECT_EQ(Parse("[memory_get(from=1, class='x', import=True, None=2)]"),
            R"(memory_get {"from": 1, "class": "x", "import": true, "None": 2})");
}

TEST(CallSyntaxProblem, ArgumentNamesThatPythonDoesNotKnow) {
  EXPECT_EQ(Parse("[f(user-id='a', x.y=1, größe=2)]"), R"(f {"user-id": "a", "x.y": 1, "größe": 2})");
}

TEST(CallSyntaxProblem, LowercaseLiterals) {
  EXPECT_EQ(Parse("[f(a=true, b=false, c=null, d=[true, None])]"),
            R"(f {"a": true, "b": false, "c": null, "d": [true, null]})");
}

TEST(CallSyntaxProblem, DottedNames) {
  EXPECT_EQ(Parse("[maps.route.find(a=1), my-server.do_it()]"), "maps.route.find {\"a\": 1}\nmy-server.do_it {}");
}

TEST(CallSyntaxProblem, WhiteSpaceAfterTheStartMarker) { EXPECT_EQ(Parse(" \n\t[f(a=1)] \n"), R"(f {"a": 1})"); }

TEST(CallSyntaxProblem, PositionalArgumentsAreRefused) {
  EXPECT_EQ(Parse("[f('x')]"), "text: f('x')");
  EXPECT_EQ(Parse("[f(a=1, 2)]"), "text: f(a=1, 2)");
}

TEST(CallSyntaxProblem, DoubleStarIsMerged) {
  EXPECT_EQ(Parse("[f(a=1, **{'b': 2, 'content-type': 'x'})]"), R"(f {"a": 1, "b": 2, "content-type": "x"})");
  EXPECT_EQ(Parse("[f(**{'a': 1}, a=2)]"), "text: f(**{'a': 1}, a=2)");
}

TEST(CallSyntaxProblem, FStringsAndExpressionsAreRefused) {
  for (std::string call :
       {"f(a=f'{x}')", "f(a=b'x')", "f(a=1+2)", "f(a=g(1))", "f(a=x)", "f(a=1j)", "f(a==1)", "f(a=--1)",
        "f(a=2024-01-01)", "f(a=1, a=2)", "f(=1)", "f(a=)", "f(a=[1 2])", "f(a={[1]: 2})"}) {
    EXPECT_EQ(Parse("[" + call + "]"), "text: " + call);
  }
}

TEST(CallSyntaxProblem, PrefixedAndAdjacentStrings) {
  EXPECT_EQ(Parse(R"([f(a=r'\n', b=u"x", c='one ' "two", d='''it's''', e="""q "r" s""")])"),
            R"(f {"a": "\\n", "b": "x", "c": "one two", "d": "it's", "e": "q \"r\" s"})");
}

TEST(CallSyntaxProblem, AnEmptyListIsNoCall) {
  EXPECT_EQ(Parse("[]"), "");
  EXPECT_EQ(Parse(" [ ] "), "");
}

TEST(CallSyntaxProblem, TextWithoutBracketsIsNoCall) {
  EXPECT_EQ(Parse("f(a=1)"), "text: f(a=1)");
  EXPECT_EQ(Parse("I will look that up."), "text: I will look that up.");
  EXPECT_EQ(Parse(""), "");
}

TEST(CallSyntaxProblem, GoodSiblingsSurviveABadOne) {
  EXPECT_EQ(Parse("[a(x=1), b(2, y=[3, (4)]), c(z='),[')]"),
            "a {\"x\": 1}\ntext: b(2, y=[3, (4)])\nc {\"z\": \"),[\"}");
  EXPECT_EQ(Parse(R"([{"name": "a"}, {"nom": "b"}, {"name": "c"}])"), "a {}\ntext: {\"nom\": \"b\"}\nc {}");
}

TEST(CallSyntaxProblem, TextInsideABadCallNeverBecomesACall) {
  EXPECT_EQ(Parse("[f('a), rm(path='), g(x=1)]"), "text: f('a), rm(path=')\ng {\"x\": 1}");
  EXPECT_EQ(Parse("[f(1, b='x), rm(p=1]"), "text: f(1, b='x), rm(p=1]");
}

TEST(CallSyntaxProblem, TextBehindTheListIsGivenBack) {
  EXPECT_EQ(Parse("[f(a=1)] Let me see."), "f {\"a\": 1}\ntext: Let me see.");
}

TEST(CallSyntax, KeepsTheLastOfTwoMembersOfADict) {
  EXPECT_EQ(Parse("[f(d={'a': 1, 'a': 2})]"), R"(f {"d": {"a": 2}})");
}

TEST(CallSyntax, SpellsKeysThatAreNoStrings) {
  EXPECT_EQ(Parse("[f(d={1: 'a', True: 'b', None: 'c'})]"), R"(f {"d": {"1": "a", "true": "b", "null": "c"}})");
}

TEST(CallSyntax, AcceptsAMissingBracketOnlyIfTheBlockWasClosed) {
  EXPECT_EQ(Parse("[f(a=1)", /*complete=*/true), R"(f {"a": 1})");
  EXPECT_EQ(Parse("[f(a=1)", /*complete=*/false), "text: f(a=1)");
}

TEST(CallSyntax, OfACutBlockOnlyWholeCallsCount) {
  EXPECT_EQ(Parse("[f(a=1), g(b='x", /*complete=*/false), "f {\"a\": 1}\ntext: g(b='x");
  EXPECT_EQ(Parse("[f(a=1)]", /*complete=*/false), R"(f {"a": 1})");
  EXPECT_EQ(Parse(R"([{"name": "f", "argu)", /*complete=*/false), R"(text: {"name": "f", "argu)");
}

TEST(CallSyntax, NestingIsBounded) {
  const auto nested = [](int depth) { return "[f(a=" + std::string(depth, '[') + std::string(depth, ']') + ")]"; };
  EXPECT_EQ(Parse(nested(60)).substr(0, 5), "f {\"a");
  EXPECT_EQ(Parse(nested(100)).substr(0, 5), "text:");
  EXPECT_EQ(Parse(nested(100000)).substr(0, 5), "text:");
  EXPECT_EQ(Parse("[f(a=" + std::string(100000, '(')).substr(0, 5), "text:");
  EXPECT_EQ(Parse("[f(a=" + std::string(100000, '{')).substr(0, 5), "text:");
}

TEST(CallSyntax, TheNumberOfCallsIsBounded) {
  std::string body = "[";
  for (int i = 0; i < 1000; ++i) body += "f(),";
  EXPECT_EQ(ParseCallBlock(body + "]", true).size(), 129u);
}

TEST(CallSyntax, HostileBodiesEnd) {
  std::string unclosed = "[", quotes = "[f(a=", blanks = "[f(a='";
  for (int i = 0; i < 100000; ++i) unclosed += "f('a,", quotes += "'' ", blanks += "'  ";
  EXPECT_FALSE(ParseCallBlock(unclosed, true).empty());
  EXPECT_FALSE(ParseCallBlock(quotes, true).empty());
  EXPECT_FALSE(ParseCallBlock(blanks, true).empty());
}

// No body may crash the reader or give arguments that are not JSON, and none may lose a letter of a refused item.
TEST(CallSyntax, EveryPrefixAndEveryMutationIsSafe) {
  const std::string body =
      "[f(a='it's \"x\"\\n', n=-07.5e3, l=['p', {'q': (1, 2)}], **{\"k\": null}), {\"name\": \"g\", \"arguments\": "
      "\"{}\"}]";
  const std::string_view replacements = "'\"\\()[]{},:=*x0 \n\xff";
  for (size_t i = 0; i <= body.size(); ++i) {
    Parse(body.substr(0, i), false);
    Parse(body.substr(i), true);
    for (char c : replacements) {
      std::string mutated = body;
      if (i < body.size()) mutated[i] = c;
      Parse(mutated);
      Parse(mutated.insert(i, 1, c));
    }
  }
}

}  // namespace
}  // namespace braid
