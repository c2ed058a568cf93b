"""Tools that never existed: names, schemas and values put together at random, with the words a user would say.

A tool is a verb and a noun ("book_hotel") with one to three parameters. Each parameter has a cue, the words that
carry its value in a request ("for 3 days"). A tenth of all verb and noun pairs is held out for evaluation.
"""

import dataclasses
import json

import words

VERBS = {  # the verb in the name -> how people say it
    "get": ["Get", "Show me", "Fetch", "Give me"], "find": ["Find", "Look for", "Search for"],
    "create": ["Create", "Make"], "delete": ["Delete", "Remove", "Erase"], "update": ["Update", "Change", "Edit"],
    "send": ["Send"], "book": ["Book", "Reserve"], "cancel": ["Cancel", "Call off"], "open": ["Open"],
    "close": ["Close", "Shut"], "start": ["Start", "Begin"], "stop": ["Stop", "End"], "play": ["Play"],
    "order": ["Order", "Buy"], "list": ["List", "Show all of"], "check": ["Check", "Look at"], "print": ["Print"],
    "save": ["Save", "Store"], "share": ["Share"], "rate": ["Rate"], "schedule": ["Schedule", "Plan"],
    "move": ["Move", "Shift"], "lock": ["Lock"], "rent": ["Rent"], "paint": ["Paint"], "sell": ["Sell"],
    "repair": ["Repair", "Fix"], "measure": ["Measure"], "count": ["Count"], "publish": ["Publish"],
}
NOUNS = """weather hotel flight train table room alarm timer reminder meeting event note file folder message email song
album movie recipe book article photo video report invoice order ticket parcel taxi car bike boat house garden door
window light lamp heater fan oven camera printer robot route map shop stock price account card payment contact group
task project game team player score course lesson exam doctor nurse visit pill pet plant field machine
meeting_room bus_stop news_feed phone_call shopping_list music_box water_pump parking_spot train_ticket
""".split()


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter; make(rng, heldout) draws a value and the words that say it."""

    name: str
    type: str
    cues: tuple
    make: object


def pick(pool):
    """A value of the pool; one in four is an invented word, so that copying is learnt and not a vocabulary."""
    def make(rng, heldout):
        if rng.random() < 0.25:
            word = words.invented_name(rng, heldout)
            return word if pool[0][0].isupper() else word.lower()
        return rng.choice(pool)
    return make


def whole(low, high):
    return lambda rng, heldout: rng.randint(low, high)


def decimal(rng, heldout):
    return rng.randint(1, 99) + rng.choice([0.5, 0.25, 0.1, 0.75, 0.9])


def clock(rng, heldout):
    return f"{rng.randint(0, 23):02d}:{rng.choice([0, 5, 10, 15, 20, 30, 40, 45, 50]):02d}"


def date(rng, heldout):
    if rng.random() < 0.4:
        return rng.choice(words.DAYS)
    return f"20{rng.randint(20, 39)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def code(rng, heldout):
    return f"{rng.choice('ABCDEFGHKLMNPRSTX')}{rng.choice(['', '-', 'X', 'B'])}{rng.randint(10, 9999)}"


def email(rng, heldout):
    return f"{rng.choice(words.NAMES).lower()}@{rng.choice(words.ANIMALS)}.{rng.choice(['net', 'org', 'com'])}"


def file_name(rng, heldout):
    return f"{rng.choice(words.THINGS)}.{rng.choice(['txt', 'pdf', 'png', 'csv'])}"


def phrase(rng, heldout):
    """A short sentence; half of them contain an apostrophe."""
    adjective, thing, animal = rng.choice(words.ADJECTIVES), rng.choice(words.THINGS), rng.choice(words.ANIMALS)
    who = words.invented_name(rng, heldout) if rng.random() < 0.3 else rng.choice(words.NAMES)
    plain = [f"The {adjective} {thing} is ready", f"Bring the {thing}", f"See you in the {rng.choice(words.ROOMS)}",
             f"{who} has a {adjective} {animal}", f"Meet {who} at {clock(rng, heldout)}", f"A {adjective} {thing}"]
    quoted = [f"It's a {adjective} {thing}", f"I don't see the {animal}", f"{who}'s {thing}",
              f"We can't find {who}'s {animal}", f"I'm at {who}'s {rng.choice(words.ROOMS)}",
              f"That's {who}'s {adjective} {thing}"]
    return rng.choice(plain if rng.random() < 0.5 else quoted)


def tags(rng, heldout):
    return rng.sample(words.TOPICS, rng.choice([1, 2, 2, 3]))


PARAMS = [
    Param("city", "string", ("in {}",), pick(words.CITIES)),
    Param("destination", "string", ("going to {}", "with destination {}"), pick(words.CITIES)),
    Param("origin", "string", ("leaving from {}", "starting in {}"), pick(words.CITIES)),
    Param("date", "string", ("on {}",), date),
    Param("time", "string", ("at {}",), clock),
    Param("days", "integer", ("for {} days",), whole(2, 30)),
    Param("minutes", "integer", ("for {} minutes",), whole(2, 90)),
    Param("people", "integer", ("for {} people",), whole(2, 12)),
    Param("count", "integer", ("with a count of {}", "{} times"), whole(2, 99)),
    Param("limit", "integer", ("with at most {} results", "with a limit of {}"), whole(2, 50)),
    Param("name", "string", ("named {}", "with the name {}"), pick(words.NAMES)),
    Param("owner", "string", ("owned by {}", "belonging to {}"), pick(words.NAMES)),
    Param("recipient", "string", ("for {}", "addressed to {}"), pick(words.NAMES)),
    Param("title", "string", ('titled "{}"', 'with the title "{}"'), phrase),
    Param("text", "string", ('saying "{}"', 'with the text "{}"'), phrase),
    Param("color", "string", ("in the color {}", "colored {}"), pick(words.COLORS)),
    Param("size", "string", ("of size {}",), pick(["small", "medium", "large"])),
    Param("amount", "number", ("with an amount of {}", "worth {}"), decimal),
    Param("price", "number", ("at a price of {}", "priced {}"), decimal),
    Param("temperature", "number", ("at {} degrees", "set to {} degrees"), decimal),
    Param("language", "string", ("using {}", "in the language {}"), pick(words.LANGUAGES)),
    Param("id", "string", ("with id {}", "with the id {}"), code),
    Param("number", "integer", ("number {}",), whole(1, 9999)),
    Param("room", "string", ("in the {}",), pick(words.ROOMS)),
    Param("level", "integer", ("at level {}", "on level {}"), whole(-9, 20)),
    Param("topic", "string", ("about {}",), pick(words.TOPICS)),
    Param("email", "string", ("to the address {}", "with the email {}"), email),
    Param("file", "string", ("from the file {}", "with the file {}"), file_name),
    Param("animal", "string", ("with a {}", "showing a {}"), pick(words.ANIMALS)),
    Param("food", "string", ("with {}", "containing {}"), pick(words.FOODS)),
    Param("tags", "array", ("tagged {}", "with the tags {}"), tags),
    Param("urgent", "boolean", ("",), lambda rng, heldout: rng.random() < 0.5),
]
SPOKEN_URGENT = {True: "as urgent", False: "as not urgent"}


@dataclasses.dataclass(frozen=True)
class Tool:
    name: str
    verb: str
    noun: str
    description: str
    params: tuple
    required: tuple

    def schema(self, rng):
        """The OpenAI object; now and then with parameter descriptions or without a list of required ones."""
        described = rng.random() < 0.1
        properties = {}
        for p in self.params:
            properties[p.name] = {"type": p.type}
            if p.type == "array":
                properties[p.name]["items"] = {"type": "string"}
            if described:
                properties[p.name]["description"] = f"The {p.name} of the {self.noun}"
        parameters = {"type": "object", "properties": properties, "required": list(self.required)}
        return {"type": "function",
                "function": {"name": self.name, "description": self.description, "parameters": parameters}}


def make_tool(rng, heldout):
    """A tool whose verb and noun pair is on the wanted side of the split."""
    while True:
        verb, noun = rng.choice(sorted(VERBS)), rng.choice(NOUNS)
        if words.is_heldout("tool", verb, noun) == heldout:
            break
    spoken = noun.replace("_", " ")
    params = tuple(rng.sample(PARAMS, rng.choice([1, 1, 2, 2, 2, 3])))
    required = tuple(p.name for p in params if len(params) == 1 or rng.random() < 0.75)
    description = f"{verb.capitalize()} {rng.choice([words.article(spoken), 'the ' + spoken])}"
    if rng.random() < 0.3:
        description += " by " + " and ".join(p.name for p in params)
    return Tool(f"{verb}_{noun}", verb, spoken, description, params, required)


def make_toolbox(rng, heldout, size):
    """Tools with different names; neighbours often share the verb or the noun, so the choice takes reading."""
    tools = {}
    while len(tools) < size:
        tool = make_tool(rng, heldout if not tools else heldout and rng.random() < 0.5)
        if tool.name not in tools and all(tool.noun not in t.name for t in tools.values() if t.verb == tool.verb):
            tools[tool.name] = tool
        for other in list(tools.values()):  # the same noun under another verb
            if len(tools) < size and rng.random() < 0.15:
                verb = rng.choice(sorted(VERBS))
                name = other.name.replace(other.verb, verb, 1)
                if name not in tools and words.is_heldout("tool", verb, name.split("_", 1)[1]) == heldout:
                    tools[name] = dataclasses.replace(make_tool(rng, heldout), name=name, verb=verb, noun=other.noun,
                                                      description=f"{verb.capitalize()} the {other.noun}")
    chosen = list(tools.values())
    rng.shuffle(chosen)
    return chosen


@dataclasses.dataclass
class Call:
    name: str
    arguments: dict

    def pythonic(self):
        return f"{self.name}({', '.join(f'{k}={python_value(v)}' for k, v in self.arguments.items())})"

    def json(self):
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)

    def openai(self, index):
        return {"id": f"call_{index}", "type": "function",
                "function": {"name": self.name, "arguments": self.arguments}}


def python_value(value):
    """Double quotes always: an apostrophe then needs no escape."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(python_value, value)) + "]"
    return str(value)


def call_text(calls, as_json):
    """What the assistant writes."""
    inside = ", ".join(c.json() if as_json else c.pythonic() for c in calls)
    return f"<|tool_call_start|>[{inside}]<|tool_call_end|>"


def say(rng, param, value):
    """The words that carry the value of one parameter."""
    if param.type == "boolean":
        return SPOKEN_URGENT[value]
    if param.type == "array":
        value = value[0] if len(value) == 1 else ", ".join(value[:-1]) + " and " + value[-1]
    return rng.choice(param.cues).format(value)


def request(rng, tool, heldout):
    """(what the user says, the call): parameters that are not required are sometimes left out."""
    arguments, cues = {}, []
    for p in tool.params:
        if p.name not in tool.required and rng.random() < 0.5:
            continue
        arguments[p.name] = p.make(rng, heldout)
        cues.append(say(rng, p, arguments[p.name]))
    if rng.random() < 0.4:
        rng.shuffle(cues)
    text = f"{rng.choice(VERBS[tool.verb])} {rng.choice(['the', words.article(tool.noun).split()[0]])} {tool.noun}"
    return " ".join([text] + cues), Call(tool.name, arguments)


def polite(rng, text):
    """A request as a sentence."""
    lower = text[0].lower() + text[1:]
    return rng.choice([f"{text}.", f"{text}.", f"Please {lower}.", f"Can you {lower}?", text,
                       f"I want you to {lower}."])
