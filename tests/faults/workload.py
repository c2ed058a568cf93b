"""The requests that faults fall upon, and the answers that they must have all the same."""
import functools
import random
import tempfile

import checksum_model
from cluster import Cluster, DEMO
from faults.client import ask
from faults.history import fold, violations

TOKENS = 64
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Current weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"


def user(text):
    return [{"role": "user", "content": text}]


def demo_requests(tokens=TOKENS):
    """Everything that could go wrong when an answer goes on elsewhere: the first one runs for all of `tokens`."""
    whole = {"max_tokens": tokens, "ignore_eos": True}
    return [
        (COMPLETION, {"prompt": "What can you do?", "temperature": 0, **whole}),
        (COMPLETION, {"prompt": "The river and the garden", "temperature": 1.0, "seed": 1, **whole}),
        (CHAT, {"messages": user("What is the weather in Oslo and what is the weather in Delhi?"), "tools": [WEATHER],
                "temperature": 0}),
        (CHAT, {"messages": user("What is the weather in Lima?"), "tools": [WEATHER], "temperature": 0,
                "logprobs": True, "top_logprobs": 2}),
        (CHAT, {"messages": user("Tell me something."), "temperature": 0.9, "seed": 2, "repetition_penalty": 1.3,
                "frequency_penalty": 0.5, "presence_penalty": 0.4, **whole}),
        (CHAT, {"messages": user("What is 847 + 138?"), "temperature": 0, "max_tokens": tokens, "logprobs": True,
                "top_logprobs": 3}),
        (COMPLETION, {"prompt": "1 2 3 4 5", "temperature": 1.2, "seed": 3, "logprobs": 3, **whole}),
        (CHAT, {"messages": user("Who are you?"), "temperature": 1.5, "seed": 4, "n": 2, **whole}),
    ]


def with_stop_string(request, answer):
    """`request`, to end where three quarters of its undisturbed answer are said."""
    path, body = request
    text = answer.choices[0].text
    at = len(text) * 3 // 4
    return path, {**body, "stop": [text[at:at + 4]]}


class Workload:
    """Requests of one model, with their undisturbed answers. `.requests[0]` runs for all of `.tokens`."""

    def __init__(self, model, requests, answers, tokens):
        self.model, self.requests, self.answers, self.tokens = model, requests, answers, tokens

    def problems(self, histories):
        """What is wrong with them, as lines of text."""
        return [f"request {i}: {what}" for i, (history, answer) in enumerate(zip(histories, self.answers))
                for what in violations(history, answer)]


def undisturbed(cluster, requests):
    answers = []
    for path, body in requests:
        history = ask(cluster.url, path, body)
        answer, wrong = fold(history)
        assert history.done and not wrong and answer.usage, (history.status, wrong, history.events[-2:])
        answers.append(answer)
    return answers


@functools.lru_cache
def demo_workload(tokens=TOKENS):
    """The answers come from a cluster of another shape, one process, which they must not depend on."""
    with Cluster(workers=0) as cluster:
        requests = demo_requests(tokens)
        sampled = requests[1]
        requests.append(with_stop_string(sampled, undisturbed(cluster, [sampled])[0]))
        return Workload(DEMO, requests, undisturbed(cluster, requests), tokens)


@functools.lru_cache
def checksum_workload(tokens=TOKENS):
    """Prompts of many lengths, and answers known without any server: a contribution that is lost, doubled or stale
    changes all that follows."""
    rng = random.Random(3)
    prompts = [[rng.randrange(checksum_model.ORDINARY) for _ in range(length)]
               for length in (1, 2, 17, 64, 65, 129, 300)]
    requests = [(COMPLETION, {"prompt": prompt, "max_tokens": tokens, "temperature": i % 2, "seed": i})
                for i, prompt in enumerate(prompts)]
    requests.append((COMPLETION, {"prompt": prompts[2], "max_tokens": tokens, "n": 2, "logprobs": 1}))
    directory = tempfile.TemporaryDirectory(prefix="braid-checksum-")
    model = checksum_model.write_model(directory.name)
    with Cluster(workers=0, model=model) as cluster:
        answers = undisturbed(cluster, requests)
    for (_, body), answer in zip(requests, answers):
        right = checksum_model.answer(body["prompt"], tokens)
        assert all(choice.tokens == right for choice in answer.choices.values())
    workload = Workload(model, requests, answers, tokens)
    workload.directory = directory  # lives as long as the workload
    return workload


WORKLOADS = {"demo": demo_workload, "checksum": checksum_workload}
