"""What a client saw of one streamed answer, and whether a fault may have let it see that.

A history is every event with its time. Folded, it is an answer that can be compared with the one of an undisturbed
cluster; the rules of `violations` hold for every history, whatever happened meanwhile:

  ends once    each choice has one finish_reason and nothing after it; one [DONE], which comes last
  same         token ids, text, reasoning, tool calls, log probabilities and usage are the undisturbed ones
  honest       an answer that was cut short says so: no finish_reason for a choice that lacks tokens, no [DONE]
  counted      usage counts the tokens that came, and the end token of each choice that ended with one
"""
import dataclasses
import json

DONE = "[DONE]"


@dataclasses.dataclass
class Choice:
    tokens: list = dataclasses.field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    calls: list = dataclasses.field(default_factory=list)  # [name, arguments]; ids are drawn anew for each request
    logprobs: list = dataclasses.field(default_factory=list)  # as JSON text: bit for bit
    finish_reason: str = ""


@dataclasses.dataclass
class Answer:
    choices: dict = dataclasses.field(default_factory=dict)  # index -> Choice
    usage: dict | None = None

    @property
    def token_count(self):
        return sum(len(choice.tokens) for choice in self.choices.values())


@dataclasses.dataclass
class History:
    """One request and what came back: (seconds, payload of a `data:` line), in order."""
    path: str
    body: dict
    status: int = 0  # of HTTP; 0: none came
    events: list = dataclasses.field(default_factory=list)
    broken: str = ""  # how the connection ended, if not well
    retries: int = 0  # how often it was refused before it was accepted

    @property
    def accepted(self):
        return self.status == 200

    @property
    def done(self):
        return any(payload == DONE for _, payload in self.events)

    @property
    def token_times(self):
        return [at for at, payload in self.events if payload != DONE and tokens_in(json.loads(payload))]

    def longest_pause(self, since=float("-inf")):
        """(seconds, when it began) between two events that brought tokens, the second of them after `since`. One that
        brings several was held back until they made text: they came one after another, and share the time."""
        arrived = [(at, count) for at, payload in self.events if payload != DONE
                   and (count := tokens_in(json.loads(payload)))]
        gaps = [((after - before) / count, before) for (before, _), (after, count) in zip(arrived, arrived[1:])
                if after >= since]
        return max(gaps, default=(0.0, 0.0))


def tokens_in(event):
    """Of a server that does not say token ids, each piece of text counts as one."""
    return sum(len(choice["token_ids"]) if "token_ids" in choice else bool(choice.get("text"))
               for choice in event.get("choices", []))


def fold(history):
    """The answer that the events add up to, and what was wrong with their order."""
    answer, wrong = Answer(), []
    for position, (_, payload) in enumerate(history.events):
        if payload == DONE:
            if position != len(history.events) - 1:
                wrong.append("[DONE] is not the last event")
            continue
        event = json.loads(payload)
        if "error" in event:
            continue  # an honest end; that it is one too many where none was due, `violations` says
        if event.get("usage"):
            if answer.usage:
                wrong.append("usage came twice")
            # How much of the prompt was known from before is a matter of time, and not of the answer.
            answer.usage = {key: value for key, value in event["usage"].items() if key != "prompt_tokens_details"}
        for part in event["choices"]:
            choice = answer.choices.setdefault(part["index"], Choice())
            if choice.finish_reason:
                wrong.append(f"choice {part['index']} goes on after its finish_reason")
            add(choice, part)
    return answer, wrong


def add(choice, part):
    delta = part.get("delta", {})
    choice.tokens += part.get("token_ids") or []
    choice.text += part.get("text") or delta.get("content") or ""
    choice.reasoning += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls") or []:
        while len(choice.calls) <= call["index"]:
            choice.calls.append(["", ""])
        choice.calls[call["index"]][0] += call["function"].get("name") or ""
        choice.calls[call["index"]][1] += call["function"].get("arguments") or ""
    choice.logprobs += scores(part.get("logprobs"))
    choice.finish_reason = part.get("finish_reason") or choice.finish_reason


def scores(logprobs):
    """One JSON text per token, however the tokens were packed into events."""
    if not logprobs:
        return []
    if "content" in logprobs:  # of a chat
        return [json.dumps(entry) for entry in logprobs["content"]]
    return [json.dumps(entry) for entry in zip(*(logprobs[key] for key in sorted(logprobs)))]


def violations(history, expected):
    """The rules that `history` breaks, given the undisturbed Answer. Empty: nothing was lost, nothing was changed."""
    answer, wrong = fold(history)
    errors = [json.loads(payload)["error"] for _, payload in history.events
              if payload != DONE and "error" in json.loads(payload)]
    if not history.accepted:
        wrong.append(f"was not accepted: {history.status} {history.broken}")
    if errors:
        wrong.append(f"ended with an error: {errors}")
    if history.broken:
        wrong.append(f"the connection ended: {history.broken}")
    if sum(payload == DONE for _, payload in history.events) != 1:
        wrong.append("there is not one [DONE]")
    if set(answer.choices) != set(expected.choices):
        wrong.append(f"choices {sorted(answer.choices)} instead of {sorted(expected.choices)}")
    for index, choice in answer.choices.items():
        wrong += [f"choice {index}: {what}" for what in differences(choice, expected.choices.get(index, Choice()))]
    if history.done or answer.usage:
        wrong += count_violations(answer, expected)
    return wrong


def differences(choice, expected):
    wrong = []
    if choice.tokens != expected.tokens:
        same = next((i for i, (a, b) in enumerate(zip(choice.tokens, expected.tokens)) if a != b),
                    min(len(choice.tokens), len(expected.tokens)))
        wrong.append(f"{len(choice.tokens)} tokens, {len(expected.tokens)} expected, the first {same} are right")
        if choice.finish_reason:
            wrong.append(f"finish_reason {choice.finish_reason!r} on tokens that are not the answer's")
    for field in ("text", "reasoning", "calls", "logprobs", "finish_reason"):
        if getattr(choice, field) != getattr(expected, field):
            wrong.append(f"{field} is not the undisturbed one: {getattr(choice, field)!r:.200} instead of "
                         f"{getattr(expected, field)!r:.200}")
    return wrong


def count_violations(answer, expected):
    wrong = []
    if answer.usage != expected.usage:
        wrong.append(f"usage {answer.usage} instead of {expected.usage}")
    ended_by_token = (answer.usage or {}).get("completion_tokens", 0) - answer.token_count
    if not 0 <= ended_by_token <= len(answer.choices):
        wrong.append(f"usage counts {answer.usage}, but {answer.token_count} tokens came")
    return wrong


def is_lost(history):
    """An accepted request without a clean end."""
    return history.accepted and not history.done


def is_dishonest(history, expected):
    """A clean end on something that is not the answer: what must never happen, not even when a request is lost."""
    answer, _ = fold(history)
    finished = [i for i, choice in answer.choices.items() if choice.finish_reason]
    wrong = [i for i in finished if answer.choices[i] != expected.choices.get(i)]
    return bool(wrong) or (history.done and answer.choices != expected.choices)
