"""The demo model can do what its card says, asked through a whole cluster: held-out cases, greedy, to the letter.

The card's own table is made by model/demo/train/evaluate.py with transformers; this asks a part of the same questions.
"""
import concurrent.futures
import sys

import pytest
import tokenizers

from cluster import DEMO, Cluster

sys.path.insert(0, str(DEMO / "train"))
import cases  # noqa: E402

COUNT, LONG_COUNT = 24, 8  # of each kind; a long one takes a second
SHARE_MIN = {"a": 0.8, "b": 0.7, "c": 0.7, "d": 0.85, "e": 0.85, "f": 0.6, "g": 0.95}


@pytest.fixture(scope="module")
def right_by_skill():
    """skill -> [whether each case came out as expected]"""
    tokenizer = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    with Cluster(workers=2) as cluster, concurrent.futures.ThreadPoolExecutor(16) as pool:

        def right(case):
            expected = cases.expected_ids(tokenizer, case)
            status, answer = cluster.post("/v1/completions", {
                "prompt": cases.prompt_ids(tokenizer, case), "temperature": 0, "repetition_penalty": 1,
                "max_tokens": len(expected), "return_token_ids": True})
            assert status == 200, answer
            return answer["choices"][0]["token_ids"] == expected

        found = {}
        for skill, what, suite in cases.suites(tokenizer, COUNT):
            count = LONG_COUNT if "tokens and more" in what else COUNT
            results = list(pool.map(right, suite[:count]))
            found.setdefault(skill, []).extend(results)
            print(f"{skill} {what}: {sum(results)} of {len(results)}")
    return found


@pytest.mark.parametrize("skill", SHARE_MIN)
def test_skill(right_by_skill, skill):
    results = right_by_skill[skill]
    assert sum(results) >= SHARE_MIN[skill] * len(results), f"skill {skill}: {sum(results)} of {len(results)}"
