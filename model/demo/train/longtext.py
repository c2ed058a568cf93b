"""Skill f: copy from a text and find things in it, from a few lines up to thousands of tokens.

A text is a list of lines with different keys. Several questions follow one text, so that a long text teaches more
than one answer.
"""

import words

ATTRIBUTES = {
    "code": lambda rng: str(rng.randint(1000, 9999)),
    "owner": lambda rng: rng.choice(words.NAMES),
    "place": lambda rng: "the " + rng.choice(words.ROOMS),
    "price": lambda rng: str(rng.randint(2, 99)),
}
FILLER = ["The {a} {t} was {b} again.", "Nobody saw the {n} that day.", "A {a} {n} sat near the {t}.",
          "It was a {a} and {b} morning.", "They sold the {a} {t}.", "The {n} likes the {b} {t}.",
          "In {c} the {t} is always {a}.", "We went to {c} with a {a} {t}."]


class Fact:
    """The code of the red box is 4821."""

    def __init__(self, rng):
        self.key = f"{rng.choice(words.ADJECTIVES + words.COLORS)} {rng.choice(words.THINGS)}"
        self.attribute = rng.choice(sorted(ATTRIBUTES))
        self.value = ATTRIBUTES[self.attribute](rng)
        self.line = f"The {self.attribute} of the {self.key} is {self.value}."

    def ask(self, rng):
        ask = rng.choice(["What is the {} of the {}?", "Tell me the {} of the {}.", "Find the {} of the {}."])
        return ask.format(self.attribute, self.key), self.line


class Person:
    """Brelka lives in Oslo. Brelka has a fox.

    The name stands before each of the two, for it is what a value is found by.
    """

    def __init__(self, rng):
        self.key = words.invented_name(rng) if rng.random() < 0.6 else rng.choice(words.NAMES)
        self.city, self.animal = rng.choice(words.CITIES), rng.choice(words.ANIMALS)
        self.line = f"{self.key} lives in {self.city}. {self.key} has {words.article(self.animal)}."

    def ask(self, rng):
        kind = rng.randrange(3)
        if kind == 0:
            return f"Where does {self.key} live?", f"{self.key} lives in {self.city}."
        if kind == 1:
            return f"Which animal does {self.key} have?", f"{self.key} has {words.article(self.animal)}."
        return f"What does the text say about {self.key}?", self.line


class Row:
    """K17: seven random words. Asked for by its label or by a word at its start."""

    def __init__(self, rng):
        self.key = f"{rng.choice('ABCDEFGHKLMNPRSTX')}{rng.randint(10, 999)}"
        pool = words.THINGS + words.ANIMALS + words.ADJECTIVES
        body = [words.invented(rng) if rng.random() < 0.3 else rng.choice(pool) for _ in range(rng.randint(2, 8))]
        self.body = " ".join(body)
        self.line = f"{self.key}: {self.body}"

    def ask(self, rng):
        ask = rng.choice(["Copy the line {}.", "What is in line {}?", "Repeat line {}."])
        return ask.format(self.key), self.line


def filler(rng):
    return rng.choice(FILLER).format(a=rng.choice(words.ADJECTIVES), b=rng.choice(words.ADJECTIVES),
                                     c=rng.choice(words.CITIES), n=rng.choice(words.ANIMALS),
                                     t=rng.choice(words.THINGS))


def document(rng, lines):
    """(text, items with different keys)"""
    kinds = rng.sample([Fact, Person, Row], rng.choice([1, 2, 3]))
    noise = rng.choice([0, 0.2, 0.5])
    items, text = {}, []
    while len(text) < lines:
        if rng.random() < noise and items:
            text.append(filler(rng))
            continue
        item = rng.choice(kinds)(rng)
        key = (item.key, getattr(item, "attribute", None))
        if key not in items:
            items[key] = item
            text.append(item.line)
    return "\n".join(text), list(items.values())


def reading(rng, lines, questions):
    """A text and questions about it."""
    text, items = document(rng, lines)
    opening = rng.choice(["Read this text:\n", "Text:\n", "Here are my notes:\n", ""])
    asked = rng.sample(items, min(questions, len(items)))
    turns = [item.ask(rng) for item in asked]
    messages = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": opening + text})
        first = turns[0][0]
    else:
        first = f"{opening}{text}\n\n{turns[0][0]}"
    for i, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": first if i == 0 else question})
        messages.append({"role": "assistant", "content": answer})
    return {"skill": "long", "messages": messages, "tools": None}


def repeat(rng):
    """Say it again, word for word."""
    pool = words.THINGS + words.ANIMALS + words.ADJECTIVES + words.NAMES + words.CITIES
    count = rng.randint(1, rng.choice([3, 6, 12, 40]))
    novelty = rng.choice([0.1, 0.5, 1.0])
    body = " ".join(words.invented(rng) if rng.random() < novelty else rng.choice(pool) for _ in range(count))
    ask = rng.choice(["Repeat: {}", "Say this again: {}", "Copy this text: {}", "Repeat after me: {}"])
    return {"skill": "copy", "tools": None, "messages": [{"role": "user", "content": ask.format(body)},
                                                         {"role": "assistant", "content": body}]}
