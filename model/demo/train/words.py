"""Word pools and the split between training and held-out material.

Everything a conversation is made of comes from here through a random.Random, so a seed gives the same data for ever.
"""

import zlib

CITIES = """Oslo Paris Rome Lima Cairo Tokyo Berlin Madrid Lisbon Vienna Prague Dublin Athens Warsaw Zurich Geneva
Milan Porto Seville Bergen Malmo Turin Naples Quito Havana Delhi Mumbai Seoul Kyoto Osaka Hanoi Manila Jakarta Perth
Sydney Boston Denver Austin Dallas Chicago Toronto Montreal Nairobi Accra Lagos Tunis Riga Tallinn Vilnius Krakow
Bristol Leeds Glasgow Cardiff Ghent Bruges Basel Bern Lyon Nice""".split()

NAMES = """Anna Ben Clara David Emma Felix Grace Hugo Ines Jonas Karin Leo Mara Nina Oscar Paula Quentin Rosa Simon
Tara Ugo Vera Walter Xenia Yusuf Zoe Alice Boris Carlo Diana Elias Frida Gustav Helen Ivan Julia Kevin Laura Marco
Nora Olga Peter Ruth Sara Thomas Ursula Victor Wendy Adam Bella Chris Dora Eric Fiona George Hanna Igor Jane Karl Lily
Max Nadia Otto Petra Robin Sofia Tim Uma Viola William""".split()

COLORS = "red blue green yellow black white brown pink gray purple orange silver golden violet".split()
ADJECTIVES = """small big old new round flat heavy light quick slow quiet loud warm cold bright dark soft hard dry wet
tall short narrow wide deep clean sharp smooth rough thin thick fresh plain fancy lucky calm brave gentle proud clever
wooden iron copper glass paper woolen stone marble rusty shiny hollow broken""".split()
THINGS = """box lamp chair table door key bell drum boat cart coat hat ring rope coin clock map flag basket bottle
bucket candle carpet hammer ladder mirror needle pencil pillow spoon kettle ticket wallet window barrel button crown
statue bridge tower garden wagon violin trumpet piano guitar sword shield helmet lantern compass anchor feather pebble
saddle whistle puzzle blanket teapot umbrella""".split()
ANIMALS = """cat dog horse goat sheep cow duck goose heron otter fox wolf bear deer hare owl eagle crow swan trout
salmon turtle lizard frog beaver badger hedgehog squirrel donkey camel lion tiger zebra monkey parrot falcon rabbit
mouse""".split()
JOBS = """baker miller potter weaver smith tailor painter doctor teacher pilot sailor farmer fisher mason carpenter
judge singer dancer writer gardener printer glazier cooper hunter shepherd librarian clerk cook""".split()
FOODS = """bread soup cheese honey plums apples pears nuts beans rice noodles cake pancakes sausages fish olives onions
carrots mushrooms berries figs dates lemons butter""".split()
ROOMS = "kitchen bedroom bathroom hallway garage office cellar attic studio library garden balcony".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
LANGUAGES = "German French Spanish Italian Polish Greek Turkish Dutch Swedish Danish Czech Hindi Korean".split()
TOPICS = """music history physics sailing chess tennis cooking poetry volcanoes dinosaurs bees trains bicycles castles
gardening knitting astronomy coral glaciers mushrooms robots whales maps medicine opera""".split()

ONSETS = "b d f g h k l m n p r s t v z br dr gr kr tr st pl fl".split()
VOWELS = "a e i o u".split()
CODAS = ["", "", "", "n", "r", "l", "s", "m", "k", "t"]


def is_heldout(*key):
    """True for the tenth of all keys that training never sees."""
    return zlib.crc32("/".join(map(str, key)).encode()) % 10 == 0


def invented(rng, syllables=None):
    """A lower-case word nobody has used, such as "brelka"."""
    n = syllables or rng.choice([2, 2, 3])
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if i == n - 1 else "")
                   for i in range(n))


def invented_name(rng, heldout=False):
    """A capitalised invented word of the wanted side of the split."""
    while True:
        word = invented(rng).capitalize()
        if is_heldout("name", word) == heldout:
            return word


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun
