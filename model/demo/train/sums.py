"""Skill d, small arithmetic: the column method written out between <think> and </think>.

The digits are laid out by place first: each step then looks a digit up by its label, which a small model can do, and
need not count positions from the end of a number, which it learns late. A column takes two operands at a time and no
spaces between them: all that a result depends on then stands within the reach of two short convolutions.
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


def add_column(x, y, carry):
    """(the column written out, the next carry)"""
    total = x + y + carry
    return f"{x}+{y}={x + y}, {x + y}+{carry}={total}, write {total % 10}, carry {total // 10}", total // 10


def subtract_column(x, y, borrow):
    rest = x - y - borrow
    return f"{x}-{y}={x - y}, {x - y}-{borrow}={rest}, write {rest % 10}, borrow {int(rest < 0)}", int(rest < 0)


def multiply_column(x, y, carry):
    total = x * y + carry
    return f"{x}*{y}={x * y}, {x * y}+{carry}={total}, write {total % 10}, carry {total // 10}", total // 10


COLUMN = {"+": add_column, "-": subtract_column, "*": multiply_column}


def steps(a, op, b):
    """Both numbers by place, then one column for each place of the longer one; a factor b is a single digit."""
    count = max(len(str(a)), len(str(b)))
    lines, carry = [places("a", a, count), places("b", b, 1 if op == "*" else count)], 0
    for place in range(count):
        text, carry = COLUMN[op](digit(a, place), b if op == "*" else digit(b, place), carry)
        lines.append(f"{PLACES[place]}: {text}")
    return lines


RESULT = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def solve(a, op, b):
    """(thinking, answer): the steps, and the sentence after them."""
    result = RESULT[op](a, b)
    thinking = "\n".join([f"{a} {op} {b}", *steps(a, op, b), f"result: {result}"])
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


def drill(rng):
    """(request, answer): single columns, many at once. A sum shows only a few of the five hundred that there are."""
    asked, answered = [], []
    for _ in range(rng.randint(4, 16)):
        op, x, y = rng.choice("+-*"), rng.randint(0, 9), rng.randint(0, 9)
        carry = rng.randint(0, max(0, y - 1)) if op == "*" else rng.randint(0, 1)
        asked.append(f"{x}{op}{y}{'-' if op == '-' else '+'}{carry}")
        answered.append(COLUMN[op](x, y, carry)[0])
    return "Columns: " + "; ".join(asked), "\n".join(answered)
