"""The tokenizer gives the ids that `tokenizers` gives: 10,000 texts, four vocabularies, no difference."""
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

tokenizers = pytest.importorskip("tokenizers")

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "tokenizer"))
import vocabularies  # noqa: E402

TOOL = pathlib.Path(os.environ.get("BRAID_TESTS", ROOT / "build/release/tests")) / "tokenize_tool"
TEXTS = 10_000
SEED = 20261123

SENTENCES = [
    "The quick brown fox doesn't jump; it's WE'LL and I'VE, they'RE ſ'ſ 'ſo.",
    "Äpfel, Öl und Übermut: 3,14 € für 1.000 g.",
    "Быстрая лиса прыгает через 12345 собак.",
    "素早い茶色の狐が、怠け者の犬を飛び越える。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "敏捷的棕色狐狸跳过了懒狗。日本語",
    "الثعلب البني السريع يقفز فوق الكلب ١٢٣٤٥.",
    "השועל החום המהיר קופץ מעל הכלב העצלן.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है १२३।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Ο γρήγορος άσπρος λύκος ½ ⅷ ²³.",
    "def f(x: int) -> str:\n\treturn f\"{x!r:>10}\"  # ok\n\n\nclass A:\n    pass\n",
    "#include <vector>\r\nint main() { return 0; }\r\n\r\n",
    "SELECT * FROM t WHERE a='it''s' AND b>=1e-3;",
    "https://example.org/a/b?c=d&e=%20#f user@host.tld",
    "{\"k\": [1, 2.5, -3e10, null]}",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ©️ ☃ 😀😃",
    "e\u0301a\u0308 ﬁ ﬆ Ⅳ ㎏ ǅ ʰ",
    "<|im_start|>user\nHi<|im_end|>\n<think>x</think>",
    "    indented        more",
]
SPACES = [" ", "  ", "    ", "\n", "\r\n", "\t", "\n\n", " \n ", "\u00a0", "\u3000", "\u2028", "\x0b", "\x85", "\x1c",
          "\u200b", "\u180e"]
MARKERS = [*vocabularies.SPECIALS, *vocabularies.OTHERS, "<|im_end", "|>", "<|", "</thin", "<|im_start|",
           "<|tool_call_end|><think>"]
ENDINGS = ["s", "S", "t", "re", "RE", "rE", "ve", "ll", "LL", "lL", "l", "d", "m", "ſ", "r", "K", "\u212a", ""]


def random_character(rng):
    while True:
        code = rng.choice([rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x20000), rng.randrange(0x110000)])
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def words(rng):
    return rng.choice(SENTENCES)


def cut(rng):
    text = rng.choice(SENTENCES)
    begin = rng.randrange(len(text))
    return text[begin:begin + rng.randrange(1, 30)]


def spaces(rng):
    return "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 6)))


def soup(rng):
    return "".join(random_character(rng) for _ in range(rng.randrange(1, 20)))


def bytes_as_text(rng):
    return rng.randbytes(rng.randrange(1, 30)).decode(rng.choice(["latin-1", "utf-8", "cp437"]), errors="replace")


def digits(rng):
    return "".join(rng.choice("0123456789.,-²٣½") for _ in range(rng.randrange(1, 12)))


def run(rng):
    return rng.choice("a 1.\n'—é漢😀") * rng.randrange(1, 80)


def contraction(rng):
    before, after = rng.choice(["don", "I", "", "é", "1", " ", "."]), rng.choice(["", " x", "s", "1"])
    return before + rng.choice("'’") + rng.choice(ENDINGS) + after


def marker(rng):
    return rng.choice(MARKERS)


def texts():
    rng = random.Random(SEED)
    makers = [words, cut, cut, spaces, spaces, soup, bytes_as_text, digits, run, contraction, contraction, marker]
    return ["", *("".join(rng.choice(makers)(rng) for _ in range(rng.randrange(1, 9))) for _ in range(TEXTS - 1))]


def tool(mode, path, lines):
    out = subprocess.run([TOOL, mode, path], input="\n".join(json.dumps(line) for line in lines) + "\n", text=True,
                         capture_output=True)
    assert out.returncode == 0, out.stderr
    return [[int(n) for n in line.split()] for line in out.stdout.split("\n")[:-1]]


def assert_same(lines, wanted, got):
    assert len(wanted) == len(got)
    wrong = [(line, a, b) for line, a, b in zip(lines, wanted, got) if a != b]
    assert not wrong, f"{len(wrong)} of {len(lines)} differ, the first: {wrong[0]}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabularies")


def tokenizer_path(name, folder):
    if name == "demo":
        return ROOT / "model/demo/tokenizer.json"
    try:
        return vocabularies.make(name, folder)
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", ["demo", *vocabularies.MAKERS])
def test_ids_are_those_of_tokenizers(name, folder):
    path = tokenizer_path(name, folder)
    oracle = tokenizers.Tokenizer.from_file(str(path))
    lines = texts()
    for mode, specials_are_text in (("parse", False), ("plain", True)):
        oracle.encode_special_tokens = specials_are_text
        wanted = [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)]
        assert_same(lines, wanted, tool(mode, path, lines))


@pytest.mark.parametrize("name", ["demo", *vocabularies.MAKERS])
def test_long_texts_are_those_of_tokenizers(name, folder):
    """Texts in which words come back; long runs of one character; sources of this project."""
    path = tokenizer_path(name, folder)
    oracle = tokenizers.Tokenizer.from_file(str(path))
    oracle.encode_special_tokens = True
    rng = random.Random(SEED)
    pool = texts()[:500]
    lines = ["".join(rng.choice(pool) for _ in range(rng.randrange(1000))) for _ in range(40)]
    lines += [run(rng) * rng.randrange(1, 60) + words(rng) for _ in range(200)]
    lines += [p.read_text() for p in sorted((ROOT / "model").glob("*.*")) if p.suffix in (".h", ".cc")]
    wanted = [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)]
    assert_same(lines, wanted, tool("plain", path, lines))


def around(code_points):
    """Each character between letters, digits, signs and white space, where its class decides who goes with whom."""
    return "".join(f"x{c}x{c}1{c} {c}{c}\n{c}.{c}'{c}" for c in map(chr, code_points))


REGEXES = {"gpt2": vocabularies.GPT2, "llama3": vocabularies.LLAMA3, "qwen2": vocabularies.QWEN2,
           "lfm2": vocabularies.LFM2}


@pytest.mark.parametrize("name", REGEXES)
def test_every_character_is_split_as_by_tokenizers(name, folder):
    """All below U+32400 and the tags; of five large blocks of one class every seventh."""
    dense = ((0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0x17000, 0x18CD0), (0x20000, 0x2EBE0), (0x30000, 0x323AF))
    codes = [c for c in range(0x32400) if not 0xD800 <= c < 0xE000 and
             (c % 7 == 0 or not any(first + 8 < c < last - 8 for first, last in dense))]
    codes += range(0xE0000, 0xE0200)
    lines = [around(codes[i:i + 500]) for i in range(0, len(codes), 500)] + texts()
    demo = json.loads((ROOT / "model/demo/tokenizer.json").read_text())
    demo["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = REGEXES[name]
    demo["post_processor"] = None  # BOS: the business of others
    path = folder / f"regex_{name}.json"
    path.write_text(json.dumps(demo))
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(REGEXES[name]), "isolated")
    wanted = []
    for line in lines:
        ends, at = [], 0
        for piece, _ in split.pre_tokenize_str(line):
            at += len(piece.encode())
            ends.append(at)
        wanted.append(ends)
    assert_same(lines, wanted, tool("split", path, lines))
