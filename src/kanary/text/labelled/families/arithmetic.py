"""Arithmetic: word problems and exercises, with every step of the working written out or left to the reader."""

from random import Random

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import arithmetic as words
from kanary.text.labelled.world import MEN, WOMEN

DOMAIN = concept("domain.arithmetic", "the text sets or solves problems of arithmetic", switch=False)
STEP = concept("arithmetic.step", "a step of the working is written out, from its first number to its result")
OPERATION = concept("arithmetic.operation", "two numbers and what is to be done with them", switch=False)
ADDITION = concept("arithmetic.addition", "numbers are to be added", parent=OPERATION)
SUBTRACTION = concept("arithmetic.subtraction", "a number is to be taken from another", parent=OPERATION)
MULTIPLICATION = concept("arithmetic.multiplication", "numbers are to be multiplied", parent=OPERATION)
DIVISION = concept("arithmetic.division", "a number is to be divided by another", parent=OPERATION)
RESULT = concept("arithmetic.result", "the number that a calculation gives", unit="the number itself", switch=False)
ANSWER = concept(
    "arithmetic.answer", "the answer to the whole problem", parent=RESULT, unit="the number itself", switch=False
)
CARRY = concept("arithmetic.carry", "a one is carried from the ones to the tens")

_NAMED = {"+": ADDITION, "-": SUBTRACTION, "×": MULTIPLICATION, "÷": DIVISION}


@family("arithmetic")
def arithmetic(p: Passage) -> None:
    with p.during(DOMAIN):
        if p.draw.random() < 0.78:
            problem(p)
        else:
            sheet(p)


def problem(p: Passage) -> None:
    """A story in which things are counted: each operation is one event in it."""
    times, gains, loses, shares = (
        p.decide(name, chance)
        for name, chance in ((MULTIPLICATION, 0.6), (ADDITION, 0.75), (SUBTRACTION, 0.65), (DIVISION, 0.4))
    )
    worked = p.decide(STEP, 0.48)
    k, each, d = p.number(2, 9), p.number(4, 12), p.number(2, 6)
    if not gains and not loses:
        d = k  # nothing else changes the number, and it must be divisible
    fill = _people(p) | {"items": p.pick(words.ITEMS), "containers": p.pick(words.CONTAINERS)}
    fill |= {"k": str(k), "each": str(each), "x": str(k * each), "d": str(d)}
    start, gain_first = p.number(0, len(words.STARTS_PLAIN) - 1), p.draw.random() < 0.6
    events = _events(p, k * each, d, [op for op in ("+-" if gain_first else "-+") if (gains if op == "+" else loses)])
    said = [p.pick(words.SETTINGS), (words.STARTS_TIMES if times else words.STARTS_PLAIN)[start]]
    story = [text.format_map(fill) for text in said]
    told = {op: p.pick(options) for op, options in (("+", words.GAINS), ("-", words.LOSSES))}
    story += [told[op].format_map(fill | {"x": str(x)}) for op, x in events]
    share = p.pick(words.SHARES)
    if shares:
        story.append(share.format_map(fill))
    story.append(p.pick(words.ASKS_EACH if shares else words.ASKS_ALL).format_map(fill))
    p.say(" ".join(story))
    close = p.pick(words.UNSOLVED).format_map(fill), p.pick(words.THINK).format_map(fill)
    p.say(f" {close[worked]}")
    if worked:
        steps = [("×", k, each)] if times else []
        total = k * each
        for op, x in events:
            steps.append((op, total, x))
            total += x if op == "+" else -x
        if shares:
            steps.append(("÷", total, d))
            total //= d
        work(p, steps, total, fill)


def _events(p: Passage, total: int, d: int, kinds: list[str]) -> list[tuple[str, int]]:
    """An amount for every kind of event; the last one makes what is there in the end divisible by ``d``."""
    events = []
    for index, op in enumerate(kinds):
        x = p.fork(op).randint(2, 30)
        if op == "-":
            x = 1 + x % (total - 1)
        if index == len(kinds) - 1:
            x = _even(total, x, op, d)
        events.append((op, x))
        total += x if op == "+" else -x
    return events


def _even(total: int, x: int, op: str, d: int) -> int:
    """The number next to ``x`` with which what is left, and not nothing, is divisible by ``d``."""
    if op == "+":
        return x + (-(total + x)) % d
    x -= (x - total) % d
    return x if x > 0 else x + d


def work(p: Passage, steps: list[tuple[str, int, int]], total: int, fill: dict[str, str]) -> None:
    """The working, step by step, and the answer."""
    draw = p.fork("work")
    if not steps:
        p.say(f" {draw.choice(words.NOTHING)}")
    for op, a, b in steps:
        before, after = draw.choice(words.STEP_WORDS[op])
        p.say(" " + before.format_map(fill | {"x": str(b)}))
        step(p, op, a, b)
        p.say(f" {after}." if after else ".")
    p.say(f" {draw.choice(words.ANSWERS)}")
    p.ask("arithmetic", f" {total}", *_wrong(total))
    p.say(f" {total}", RESULT, ANSWER, value=float(total))
    p.say(f" {fill['items']}." if draw.random() < 0.5 else ".")


def sheet(p: Passage) -> None:
    """Exercises without a story, with their working or without."""
    worked, carries = p.decide(STEP, 0.6), p.decide(CARRY, 0.5)
    fill = _people(p) | {"page": str(p.number(3, 90))}
    draw = p.fork("work")
    p.say(p.pick(words.SHEETS).format_map(fill))
    for task in p.some(words.TASKS, p.number(2, 4)):
        op = p.pick("+++--××÷")
        a, b = _numbers(p, op, carries)
        before, _, after = task.partition("{task}")
        if before:
            p.say(f" {before.rstrip()}")
        p.say(f" {a} {op} {b}", _NAMED[op])
        p.say(after)
        if worked:
            _SOLVED[op](p, draw, a, b)
    end = p.pick(words.SHEET_ENDS).format_map(fill)
    if end:
        p.say(f" {end}")


def _numbers(p: Passage, op: str, carries: bool) -> tuple[int, int]:
    """Two numbers; the ones of an addition have a sum above nine if it ``carries``."""
    t, s = p.number(1, 5), p.number(1, 3)
    u, v = p.draw.random(), p.draw.random()
    if op == "+":
        one = 2 + int(u * 8) if carries else int(u * 8)
        other = 10 - one + int(v * one) if carries else 1 + int(v * (9 - one))
        return 10 * t + one, 10 * s + other
    if op == "-":
        return 10 * (t + s + 1) + int(u * 10), 10 * s + 1 + int(v * 9)
    if op == "×":
        return 2 + int(u * 8), 10 * s + 1 + int(v * 9)
    divisor, quotient = 2 + int(u * 8), 3 + int(v * 9)
    return divisor * quotient, divisor


def step(p: Passage, op: str, a: int, b: int, *more: int) -> int:
    """Says a calculation with its result, ``more`` being further numbers that are added."""
    result = (a + b if op == "+" else a - b if op == "-" else a * b if op == "×" else a // b) + sum(more)
    with p.during(STEP):
        p.say(f" {a} {op} {b}{''.join(f' + {other}' for other in more)}", _NAMED[op])
        p.say(" =")
        p.ask("arithmetic", f" {result}", *_wrong(result))
        p.say(f" {result}", RESULT, value=float(result))
    return result


def _wrong(result: int) -> tuple[str, ...]:
    return tuple(f" {other}" for other in (result + 1, result - 1, result + 10) if other >= 0)


def _add(p: Passage, draw: Random, a: int, b: int) -> None:
    p.say(f" {draw.choice(words.ONES)}")
    ones = step(p, "+", a % 10, b % 10)
    picks = draw.choice(words.CARRIES), draw.random()
    if ones > 9:
        p.say(",")
        p.say(f" {picks[0].format(u=ones - 10)}", CARRY)
    p.say(".")
    before = words.TENS_CARRIED if ones > 9 else words.TENS_PLAIN
    with p.during(*((CARRY,) if ones > 9 else ())):
        p.say(f" {before[int(picks[1] * len(before))]}")
    step(p, "+", a // 10, b // 10, *((1,) if ones > 9 else ()))
    p.say(".")
    _conclude(p, draw, "+", a, b)


def _subtract(p: Passage, draw: Random, a: int, b: int) -> None:
    p.say(f" {draw.choice(words.SPLITS_MINUS).format(t=b - b % 10)}")
    left = step(p, "-", a, b - b % 10)
    p.say(f", {draw.choice(words.SECONDS)}")
    step(p, "-", left, b % 10)
    p.say(".")
    _conclude(p, draw, "-", a, b)


def _multiply(p: Passage, draw: Random, a: int, b: int) -> None:
    p.say(f" {draw.choice(words.SPLITS_TIMES).format(b=b, t=b - b % 10, u=b % 10)}")
    tens = step(p, "×", a, b - b % 10)
    p.say(f", {draw.choice(words.SECONDS)}")
    ones = step(p, "×", a, b % 10)
    p.say(f", {draw.choice(words.TOGETHER)}")
    step(p, "+", tens, ones)
    p.say(".")
    _conclude(p, draw, "×", a, b)


def _divide(p: Passage, draw: Random, a: int, b: int) -> None:
    p.say(f" {draw.choice(words.DIVIDES).format(b=b)}")
    step(p, "×", b, a // b)
    p.say(".")
    _conclude(p, draw, "÷", a, b)


def _conclude(p: Passage, draw: Random, op: str, a: int, b: int) -> None:
    """The whole task again, with the answer to it."""
    result = a + b if op == "+" else a - b if op == "-" else a * b if op == "×" else a // b
    p.say(draw.choice((" So", " Hence", " And so", " That means", " Therefore")))
    p.say(f" {a} {op} {b}", _NAMED[op])
    p.say(draw.choice((" is", " =", " makes", " comes to")))
    p.ask("arithmetic", f" {result}", *_wrong(result))
    p.say(f" {result}", RESULT, ANSWER, value=float(result))
    p.say(".")


_SOLVED = {"+": _add, "-": _subtract, "×": _multiply, "÷": _divide}


def _people(p: Passage) -> dict[str, str]:
    """Two people of different names."""
    one = p.pick(WOMEN + MEN)
    other = p.pick(WOMEN + MEN)
    while other == one:
        other = p.pick(WOMEN + MEN)
    return {"n": one, "m": other, "mhis": "her" if other in WOMEN else "his"}
