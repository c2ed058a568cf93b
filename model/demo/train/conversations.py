"""Skills a, b and c as conversations: choose tools, call them in either form, read what they return.

A past call is written in one of two ways, half and half: as the chat template renders the tool_calls field (what a
server sends back in the next request; no loss on it), or as the model itself wrote it (with loss).
"""

import json

import lookups
import smalltalk
import sums
import toolbox
import world
import words

JSON_MODE = "Output function calls as JSON."


def system_text(rng, as_json):
    base = rng.choice(["", "", "You are a helpful assistant.", "You are a helpful assistant with tools.",
                       "Use the tools."])
    return " ".join(filter(None, [base, JSON_MODE])) if as_json else base


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def tool_result(text):
    return {"role": "tool", "content": text}


class Session:
    """The tools of one conversation and what may be asked of them."""

    def __init__(self, rng, heldout, generic=None, lookup=None, natural=None):
        self.rng, self.heldout = rng, heldout
        generic = rng.choice([0, 1, 1, 1, 2, 2, 3]) if generic is None else generic
        lookup = rng.choice([0, 0, 1, 1]) if lookup is None else lookup
        natural = rng.choice([0, 0, 1]) if natural is None else natural
        self.tools = toolbox.make_toolbox(rng, heldout, generic)
        self.lookups = self._different([lookups.Lookup(rng, heldout) for _ in range(lookup)])
        taken = {t.name for t in self.tools}
        self.natural = [s for s in rng.sample(lookups.NATURAL, natural) if s["function"]["name"] not in taken]
        if not (self.tools or self.lookups or self.natural):
            self.natural = [lookups.WEATHER]

    @staticmethod
    def _different(items):
        """One lookup tool per kind: two tools that look up a flight could not be told apart."""
        return list({x.kind: x for x in items}.values())

    def schemas(self):
        found = [t.schema(self.rng) for t in self.tools] + [l.schema() for l in self.lookups] + self.natural
        self.rng.shuffle(found)
        return found

    def step(self, kind=None):
        """(request, call, result, answer)"""
        kinds = ["tool"] * 2 * len(self.tools) + ["lookup"] * len(self.lookups) + ["natural"] * len(self.natural)
        kind = kind or self.rng.choice(kinds)
        if kind == "tool":
            return self._tool_step(self.rng.choice(self.tools))
        if kind == "lookup":
            return self.rng.choice(self.lookups).ask(self.rng)
        return self._natural_step()

    def _natural_step(self):
        while True:
            schema, *rest = lookups.natural_turn(self.rng, self.heldout)
            if schema in self.natural:
                return rest

    def _tool_step(self, tool):
        text, call = toolbox.request(self.rng, tool, self.heldout)
        text = toolbox.polite(self.rng, text)
        luck = self.rng.random()
        if luck < 0.15:
            error = self.rng.choice(lookups.ERRORS)
            return text, call, json.dumps({"error": error}), f"Sorry, the tool says: {error}."
        if luck < 0.5:
            number = self.rng.randint(100, 9999)
            return text, call, json.dumps({"status": "ok", "id": number}), f"Done. The id is {number}."
        return text, call, json.dumps({"status": "ok"}), "Done."

    def steps(self, count):
        """Several requests in one message, joined as people join them."""
        found = [self.step() for _ in range(count)]
        texts = [f[0] for f in found]
        if count > 1:
            texts = [texts[0].rstrip(".")] + [t[0].lower() + t[1:] if t.split()[0].lower() in JOINABLE else t
                                              for t in texts[1:]]
            joint = self.rng.choice([" and ", ". ", " and ", " and then "])
            text = texts[0] + (texts[0][-1] in "?\"" and " " or joint) + " ".join(texts[1:])
        else:
            text = texts[0]
        answers = [f[3] for f in found]
        answer = answers[0] if len(set(answers)) == 1 else " ".join(answers)
        return text, [f[1] for f in found], [f[2] for f in found], answer


JOINABLE = ({v.split()[0].lower() for forms in toolbox.VERBS.values() for v in forms}
            | {"what", "please", "can", "how", "tell", "look", "set", "wake", "convert", "which"})


def plain_turn(rng, heldout):
    """A question that needs no tool although tools are there."""
    if rng.random() < 0.5:
        return smalltalk.turn(rng)
    return world.turn(rng, heldout)


def tool_conversation(rng, heldout=False):
    """One training conversation with tools, one to five turns."""
    session = Session(rng, heldout)
    as_json = rng.random() < 0.35
    as_field = rng.random() < 0.5
    messages = []
    system = system_text(rng, as_json)
    if system:
        messages.append({"role": "system", "content": system})
    turns = rng.choice([1, 2, 3, 4, 4, 5])
    for i in range(turns):
        if rng.random() < 0.08:
            question, answer = plain_turn(rng, heldout)
            messages += [user(question), assistant(answer)]
            continue
        text, calls, results, answer = session.steps(rng.choice([1, 2]))
        messages.append(user(text))
        written = toolbox.call_text(calls, as_json)
        if i == turns - 1 and (as_field or rng.random() < 0.5):
            messages.append(assistant(written))
            break
        if as_field:
            fields = [c.openai(n) for n, c in enumerate(calls)]
            messages.append(assistant("", tool_calls=fields, train=False))
        else:
            messages.append(assistant(written))
        messages += [tool_result(r) for r in results]
        messages.append(assistant(answer))
    return {"skill": "tools", "messages": messages, "tools": session.schemas()}


def call_case(rng, as_json=False, several=True, calls=1, apostrophe=None):
    """A held-out case of skill a or b: system prompt with tools, one request, the call expected.

    With apostrophe set, the call has (or has not) a string with an apostrophe in it.
    """
    while True:
        if several:
            session = Session(rng, True, generic=rng.choice([1, 2, 3]), lookup=1, natural=rng.choice([0, 1]))
        else:
            session = Session(rng, True, generic=1, lookup=0, natural=0)
        text, made, _, _ = session.steps(calls)
        written = toolbox.call_text(made, as_json)
        if apostrophe is None or ("'" in written) == apostrophe:
            break
    system = system_text(rng, as_json)
    messages = [{"role": "system", "content": system}] if system else []
    return {"messages": messages + [user(text)], "tools": session.schemas(), "expected": written}


def result_case(rng, calls):
    """A held-out case of skill c: the call is in the history as the template renders it, the answer is expected."""
    session = Session(rng, True, lookup=rng.choice([1, 2]))
    text, made, results, answer = session.steps(calls)
    fields = [c.openai(n) for n, c in enumerate(made)]
    messages = [user(text), assistant("", tool_calls=fields)] + [tool_result(r) for r in results]
    return {"messages": messages, "tools": session.schemas(), "expected": answer}


def chat(rng, heldout=False):
    """Skills d, e and g in one conversation; only the last turn keeps its thinking, as the template has it."""
    messages = []
    system = smalltalk.system_prompt(rng)
    if system:
        messages.append({"role": "system", "content": system})
    for _ in range(rng.choice([3, 4, 6, 8])):
        if rng.random() < 0.25:
            question, answer = smalltalk.turn(rng)
        else:
            question, answer = world.turn(rng, heldout)
        messages += [user(question), assistant(answer)]
    if rng.random() < 0.4:
        at = 2 * rng.randint(0, 2) + bool(system)
        question, thinking, answer = sums.turn(rng, heldout)
        last = at >= len(messages)
        more = {"thinking": thinking} if last else {"thinking": thinking, "train": False}
        messages[at:at] = [user(question), assistant(answer, **more)]
    return {"skill": "chat", "messages": messages, "tools": None}


def arithmetic(rng, heldout=False):
    """Mostly one sum; sometimes earlier sums stand before it with their thinking dropped."""
    messages = []
    system = smalltalk.system_prompt(rng)
    if system:
        messages.append({"role": "system", "content": system})
    for _ in range(rng.choice([0, 0, 0, 1])):
        question, thinking, answer = sums.turn(rng, heldout)
        messages += [user(question), assistant(answer, thinking=thinking, train=False)]
    question, thinking, answer = sums.turn(rng, heldout)
    messages += [user(question), assistant(answer, thinking=thinking)]
    return {"skill": "sums", "messages": messages, "tools": None}


def drill(rng):
    question, answer = sums.drill(rng)
    return {"skill": "sums", "messages": [user(question), assistant(answer)], "tools": None}
