"""Skill d, small arithmetic: the column method written out between <think> and </think>.

The digits are laid out by place first: each step then looks a digit up by its label, which a small model can do, and
need not count positions from the end of a number, which it learns late.
"""

from words import is_heldout

PLACES = ["ones", "tens", "hundreds", "thousands"]

ASKS = {
    "+": ["What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "Compute {a} + {b}.",
          "{a} + {b} = ?",
          "Add {a} and {b}.", "Calculate {a} + {b}", "{a}+{b}"],
    "-": ["What is {a} - {b}?", "What is {a} minus {b}?", "How much is {a} - {b}?", "Compute {a} - {b}.",
          "{a} - {b} = ?",
          "Subtract {b} from {a}.", "Calculate {a} - {b}", "{a}-{b}"],
    "*": ["What is {a} * {b}?", "What is {a} times {b}?", "How much is {a} * {b}?", "Compute {a} * {b}.",
          "{a} * {b} = ?",
          "Multiply {a} by {b}.", "Calculate {a} * {b}", "{a}*{b}"],
}


def digit(n, place):
    return n // 10**place % 10


def places(letter, n, count):
    """a: tens 4, ones 7"""
    return f"{letter}: " + ", ".join(f"{PLACES[p]} {digit(n, p)}" for p in reversed(range(count)))


def add_steps(a, b):
    count = max(len(str(a)), len(str(b)))
    carry, lines = 0, [places("a", a, count), places("b", b, count)]
    for place in range(count):
        x, y = digit(a, place), digit(b, place)
        total = x + y + carry
        lines.append(f"{PLACES[place]}: {x} + {y} + {carry} = {total}, write {total % 10}, carry {total // 10}")
        carry = total // 10
    return lines


def subtract_steps(a, b):
    count = len(str(a))
    borrow, lines = 0, [places("a", a, count), places("b", b, count)]
    for place in range(count):
        x, y = digit(a, place), digit(b, place)
        rest = x - y - borrow
        lines.append(f"{PLACES[place]}: {x} - {y} - {borrow} = {rest}, write {rest % 10}, borrow {int(rest < 0)}")
        borrow = int(rest < 0)
    return lines


def multiply_steps(a, b):
    carry, lines = 0, [places("a", a, len(str(a))), places("b", b, 1)]
    for place in range(len(str(a))):
        x = digit(a, place)
        total = x * b + carry
        lines.append(f"{PLACES[place]}: {x} * {b} = {x * b}, + {carry} = {total}, write {total % 10}, "
                     f"carry {total // 10}")
        carry = total // 10
    return lines


STEPS = {"+": add_steps, "-": subtract_steps, "*": multiply_steps}
RESULT = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def solve(a, op, b):
    """(thinking, answer): the steps, and the sentence after them."""
    result = RESULT[op](a, b)
    thinking = "\n".join([f"{a} {op} {b}"] + STEPS[op](a, b) + [f"result: {result}"])
    return thinking, f"{a} {op} {b} = {result}."


def operands(rng):
    op = rng.choice("++--*")
    if op == "*":
        return rng.randint(2, 99), op, rng.randint(2, 9)
    size = [9, 99, 99, 999, 999]
    a, b = rng.randint(0, rng.choice(size)), rng.randint(0, rng.choice(size))
    return (max(a, b), op, min(a, b)) if op == "-" else (a, op, b)


def turn(rng, heldout=False):
    """(question, thinking, answer) of the wanted side of the split."""
    while True:
        a, op, b = operands(rng)
        if is_heldout("sum", a, op, b) == heldout:
            thinking, answer = solve(a, op, b)
            return rng.choice(ASKS[op]).format(a=a, b=b), thinking, answer
