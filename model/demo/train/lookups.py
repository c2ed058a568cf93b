"""Natural tools with the questions people ask them, their results, and the answers to be read from the results."""

import json

import words
from toolbox import Call, clock, code, phrase, pick

price = lambda rng, heldout: rng.randint(2, 950)
number = lambda rng, heldout: rng.randint(1, 99)
person = pick(words.NAMES)
city = pick(words.CITIES)

# kind -> (key parameter, its values, the fields of the result)
KINDS = {
    "flight": ("id", code, {"gate": code, "time": clock, "status": pick(["late", "early", "boarding", "gone"]),
                            "destination": city}),
    "train": ("id", code, {"platform": number, "time": clock, "status": pick(["late", "full", "ready"])}),
    "product": ("name", pick(words.THINGS), {"price": price, "color": pick(words.COLORS), "stock": number}),
    "hotel": ("name", pick(words.NAMES), {"price": price, "city": city, "rating": number}),
    "person": ("name", person, {"job": pick(words.JOBS), "age": number, "city": city}),
    "book": ("title", pick(words.TOPICS), {"author": person, "year": lambda r, h: r.randint(1850, 2029),
                                           "pages": price}),
    "parcel": ("id", code, {"city": city, "status": pick(["sent", "lost", "waiting"]), "weight": number}),
    "room": ("name", pick(words.ROOMS), {"temperature": number, "size": number, "color": pick(words.COLORS)}),
    "song": ("title", pick(words.THINGS), {"singer": person, "year": lambda r, h: r.randint(1950, 2029)}),
    "team": ("name", pick(words.ANIMALS), {"score": number, "coach": person, "city": city}),
    "plant": ("name", pick(words.FOODS), {"color": pick(words.COLORS), "height": number, "price": price}),
    "car": ("id", code, {"owner": person, "color": pick(words.COLORS), "speed": number}),
    "order": ("id", code, {"price": price, "status": pick(["paid", "open", "shipped"]), "owner": person}),
    "course": ("topic", pick(words.TOPICS), {"teacher": person, "room": number, "day": pick(words.DAYS)}),
}
PREFIXES = ["get_{}", "find_{}", "read_{}", "lookup_{}", "{}_info", "get_{}_info", "query_{}", "load_{}"]
ERRORS = ["not found", "no access", "service is down", "timeout", "too many requests"]
ASKS = ["What is the {f} of the {k} {v}?", "Tell me the {f} of the {k} {v}.", "What {f} does the {k} {v} have?",
        "I need the {f} of the {k} {v}.", "{k} {v}: what is the {f}?", "Look up the {f} of the {k} {v}."]


class Lookup:
    """One lookup tool: get_flight(id), its schema and a result for each call."""

    def __init__(self, rng, heldout):
        while True:
            self.kind, prefix = rng.choice(sorted(KINDS)), rng.choice(PREFIXES)
            if words.is_heldout("lookup", self.kind, prefix) == heldout:
                break
        self.name = prefix.format(self.kind)
        self.key, self.make, self.fields = KINDS[self.kind]
        self.heldout = heldout

    def schema(self):
        parameters = {"type": "object", "properties": {self.key: {"type": "string"}}, "required": [self.key]}
        description = f"Look up {words.article(self.kind)}"
        return {"type": "function",
                "function": {"name": self.name, "description": description, "parameters": parameters}}

    def ask(self, rng):
        """(question, call, result, answer) for one value of the key."""
        value, field = self.make(rng, self.heldout), rng.choice(sorted(self.fields))
        question = rng.choice(ASKS).format(f=field, k=self.kind, v=value)
        call = Call(self.name, {self.key: value})
        if rng.random() < 0.1:
            error = rng.choice(ERRORS)
            answer = f"Sorry, the tool says: {error}."
            return question[0].upper() + question[1:], call, json.dumps({"error": error}), answer
        names = sorted(self.fields)
        rng.shuffle(names)
        values = {name: self.fields[name](rng, self.heldout) for name in names}
        result = values if rng.random() < 0.4 else {self.key: value, **values}
        answer = f"The {field} of the {self.kind} {value} is {values[field]}."
        return question[0].upper() + question[1:], call, json.dumps(result), answer


def function(name, description, **types):
    properties = {k: {"type": t} for k, t in types.items()}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": properties, "required": list(types)}}}


WEATHER = function("get_weather", "Get the weather in a city", city="string")
TIME = function("get_time", "Get the local time in a city", city="string")
ALARM = function("set_alarm", "Set an alarm", time="string")
TIMER = function("set_timer", "Start a timer", minutes="integer")
MESSAGE = function("send_message", "Send a message to a person", to="string", text="string")
SEARCH = function("search_web", "Search the web", query="string")
SONG = function("play_song", "Play a song", title="string")
CONVERT = function("convert_currency", "Convert money", amount="number", source="string", target="string")
NATURAL = [WEATHER, TIME, ALARM, TIMER, MESSAGE, SEARCH, SONG, CONVERT]
SKIES = ["sunny", "cloudy", "rainy", "windy", "foggy", "clear"]
MONEY = ["euros", "dollars", "pounds", "yen", "francs", "crowns"]


def natural_turn(rng, heldout):
    """(schema, question, call, result, answer) for one of the tools above."""
    schema = rng.choice(NATURAL)
    name = schema["function"]["name"]
    place = city(rng, heldout)
    if schema is WEATHER:
        degrees, sky = rng.randint(-9, 38), rng.choice(SKIES)
        ask = rng.choice(["What is the weather in {}?", "How is the weather in {}?", "Is it warm in {}?",
                          "What's the weather like in {}?", "Tell me the weather in {}."]).format(place)
        result = {"city": place, "temperature": degrees, "sky": sky}
        if rng.random() < 0.4:
            result = {"sky": sky, "temperature": degrees}
        answer = f"It is {sky} and {degrees} degrees in {place}."
        return schema, ask, Call(name, {"city": place}), json.dumps(result), answer
    if schema is TIME:
        now = clock(rng, heldout)
        ask = rng.choice(["What time is it in {}?", "How late is it in {}?", "Tell me the time in {}."]).format(place)
        return schema, ask, Call(name, {"city": place}), json.dumps({"time": now}), f"It is {now} in {place}."
    if schema is CONVERT:
        amount, (source, target) = rng.randint(1, 900), rng.sample(MONEY, 2)
        value = rng.randint(1, 900) + rng.choice([0, 0.5, 0.25])
        ask = rng.choice(["How much are {} {} in {}?", "Convert {} {} to {}.", "Change {} {} into {}."])
        return (schema, ask.format(amount, source, target),
                Call(name, {"amount": amount, "source": source, "target": target}), json.dumps({"result": value}),
                f"{amount} {source} are {value} {target}.")
    return action_turn(rng, heldout, schema, name)


def action_turn(rng, heldout, schema, name):
    text = phrase(rng, heldout)
    if schema is ALARM:
        now = clock(rng, heldout)
        ask = rng.choice(["Wake me at {}.", "Set an alarm for {}.", "I have to get up at {}."]).format(now)
        call = Call(name, {"time": now})
    elif schema is TIMER:
        minutes = rng.randint(1, 90)
        ask = rng.choice(["Set a timer for {} minutes.", "Start a timer of {} minutes.", "Timer, {} minutes."])
        ask, call = ask.format(minutes), Call(name, {"minutes": minutes})
    elif schema is MESSAGE:
        who = person(rng, heldout)
        ask = rng.choice(['Tell {} "{}".', 'Send {} the message "{}".', 'Write to {}: "{}"']).format(who, text)
        call = Call(name, {"to": who, "text": text})
    elif schema is SEARCH:
        pair = f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.THINGS)}"
        query = rng.choice([rng.choice(words.TOPICS), pair, text])
        ask = rng.choice(['Search the web for "{}".', 'Google "{}".', 'Search for "{}".']).format(query)
        call = Call(name, {"query": query})
    else:
        ask = rng.choice(['Play "{}".', 'Play the song "{}".', 'I want to hear "{}".']).format(text)
        call = Call(name, {"title": text})
    if rng.random() < 0.15:
        error = rng.choice(ERRORS)
        return schema, ask, call, json.dumps({"error": error}), f"Sorry, the tool says: {error}."
    return schema, ask, call, json.dumps({"status": rng.choice(["ok", "done"])}), "Done."
