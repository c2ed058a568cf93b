"""What `./run bench` makes of its figures: medians over rounds, shares of limits, ratios the right way round."""
import pytest

from speed import table


def point(speed, limit, share, **what):
    return {"kind": "decode", "sequences": 1, "context_tokens": 0, "tokens_per_second": speed,
            "limit_tokens_per_second": limit, "limit_share": share, **what}


def rounds():
    def one(speed, far, start, llama):
        return {"engine": {"points": [point(speed, 60, speed / 60),
                                      point(far, 48, far / 48, context_tokens=16384)]},
                "server": {"first_token_s": start, "memory_bytes": 200e6},
                "llama": {"decode_1": llama, "first_token_s": 20, "memory_bytes": 500e6}}
    prompt = point(400, 600, 0.6, kind="prompt", prompt_tokens=8192)
    figures = [one(50, 40, 2, 25), one(54, 45, 1, 26), one(30, 27, 4, 10)]
    figures[0]["engine"]["points"].insert(0, prompt)
    figures[0]["llama"]["prompt_8192"] = 50
    return figures


def by_name(lines):
    return {line.name: line for line in lines}


def test_a_line_is_the_median_of_the_rounds():
    decode = by_name(table.lines(rounds()))["decode, 1 sequence"]
    assert (decode.braid, decode.limit, decode.llama) == (50, 60, 25)
    assert decode.share == pytest.approx(50 / 60) and decode.ratio == 2


def test_what_was_measured_once_counts_once():
    prompt = by_name(table.lines(rounds()))["prompt of 8,192"]
    assert (prompt.braid, prompt.llama, prompt.ratio) == (400, 50, 8)


def test_a_context_is_compared_within_its_round():
    found = table.lines(rounds())
    names = [line.name for line in found]
    share = found[names.index("decode, 1 sequence at 16,384") + 1]
    assert share.braid == pytest.approx(45 / 54) and share.limit == pytest.approx(48 / 60) and share.llama is None


def test_less_time_and_memory_are_better():
    found = by_name(table.lines(rounds()))
    assert found["process start to first token"].ratio == 10
    assert found["memory beyond weights and KV"].ratio == 2.5


def test_one_side_alone_has_no_ratio():
    alone = [{"engine": {"points": []}, "llama": {"first_token_s": 20, "prompt_8192": 50, "decode_8": 40}}]
    assert [(line.name, line.llama, line.ratio) for line in table.lines(alone)] == [
        ("prompt of 8,192", 50, None), ("decode, 8 sequences", 40, None), ("process start to first token", 20, None)]
    assert table.lines([]) == []


def test_the_text_is_a_table():
    text = table.text(table.lines(rounds())).splitlines()
    assert len({len(line) for line in text}) == 1
    assert text[0].split("|")[1:-1] and "83 %" in next(line for line in text if "decode, 1 sequence " in line)
    assert "10.0 x" in next(line for line in text if "process start" in line)
