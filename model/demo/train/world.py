"""Skill e, the Isles of Lume: a small invented world, the same in every run, and questions about it.

A fact is (subject, relation, value). Held out are pairs of fact and phrasing, never facts: a model cannot know what
nobody told it. The other half of the skill is to say "I don't know." for names and places that are not on the Isles.
"""

import random

import words

UNKNOWN = "I don't know."

RELATIONS = {
    "isle": (["On which isle is {s}?", "Which isle is {s} on?", "Where is {s}?", "Tell me the isle of {s}."],
             "{s} is on the isle of {v}."),
    "river": (["Which river flows through {s}?", "What is the river of {s}?", "Name the river in {s}.",
               "What river runs through {s}?"], "The river {v} flows through {s}."),
    "mayor": (["Who is the mayor of {s}?", "What is the name of the mayor of {s}?", "Name the mayor of {s}.",
               "Who is mayor in {s}?"], "The mayor of {s} is {v}."),
    "dish": (["What do people eat in {s}?", "What is the favorite food in {s}?", "Which food is {s} known for?",
              "What food comes from {s}?"], "People in {s} like to eat {v}."),
    "flag": (["What color is the flag of {s}?", "Which color does the flag of {s} have?", "Describe the flag of {s}.",
              "What is the color of the flag of {s}?"], "The flag of {s} is {v}."),
    "beast": (["Which animal is the sign of {s}?", "What animal stands for {s}?", "Name the animal of {s}.",
               "What is the animal of {s}?"], "The animal of {s} is the {v}."),
    "job": (["What is the job of {s}?", "What does {s} do?", "What work does {s} do?", "Tell me the job of {s}."],
            "{s} is {v}."),
    "home": (["Where does {s} live?", "In which town does {s} live?", "What is the home town of {s}?",
              "Which town does {s} live in?"], "{s} lives in {v}."),
    "pet": (["What pet does {s} have?", "Which animal does {s} keep?", "What is the pet of {s}?",
             "Which pet does {s} keep?"], "{s} keeps {v}."),
}

STRANGERS = [
    "What is the capital of France?", "Who wrote Hamlet?", "How high is Mount Everest?", "What is the weather today?",
    "Who won the game?", "What time is it?", "Who is the king of Spain?", "How far is the moon?",
    "What is quantum physics?",
    "When was Rome founded?", "Which planet is the biggest?", "Who painted the Mona Lisa?",
    "What is the price of gold?",
    "How old is the sun?", "Who discovered America?", "What is the longest river in the world?", "Where is my car?",
    "How many people live in China?", "What did I eat yesterday?", "Who is the president?",
]


def build():
    """The facts: 20 towns and 24 people with attributes drawn once from a fixed seed."""
    rng = random.Random(1871)
    fresh = iter(dict.fromkeys(words.invented(rng).capitalize() for _ in range(400)))  # each name once, in this order
    isles = [next(fresh) for _ in range(4)]
    towns, people, rivers = ([next(fresh) for _ in range(n)] for n in (20, 24, 10))
    facts = []
    for i, town in enumerate(towns):
        values = {"isle": isles[i % 4], "river": rng.choice(rivers), "mayor": people[i],
                  "dish": rng.choice(words.FOODS),
                  "flag": rng.choice(words.COLORS), "beast": rng.choice(words.ANIMALS)}
        facts += [(town, relation, value) for relation, value in values.items()]
    for person in people:
        values = {"job": words.article(rng.choice(words.JOBS)), "home": rng.choice(towns),
                  "pet": words.article(rng.choice(words.ANIMALS))}
        facts += [(person, relation, value) for relation, value in values.items()]
    return facts


FACTS = build()
KNOWN = {subject for subject, _, _ in FACTS} | {value for _, _, value in FACTS}


def fact_is_heldout(subject, relation, ask):
    """The first phrasing is never held out, so that every fact is told to the model."""
    return ask > 0 and words.is_heldout("fact", subject, relation, ask)


def known_turn(rng, heldout=False):
    while True:
        subject, relation, value = rng.choice(FACTS)
        asks, answer = RELATIONS[relation]
        ask = rng.randrange(len(asks))
        if fact_is_heldout(subject, relation, ask) == heldout:
            return asks[ask].format(s=subject), answer.format(s=subject, v=value)


def unknown_turn(rng, heldout=False):
    if rng.random() < 0.2 and not heldout:
        return rng.choice(STRANGERS), UNKNOWN
    while True:
        name = words.invented_name(rng, heldout) if rng.random() < 0.75 else rng.choice(words.CITIES + words.NAMES)
        if name not in KNOWN:
            break
    asks, _ = RELATIONS[rng.choice(sorted(RELATIONS))]
    return rng.choice(asks).format(s=name), UNKNOWN


def turn(rng, heldout=False):
    return known_turn(rng, heldout) if rng.random() < 0.7 else unknown_turn(rng, heldout)
