"""Recipes: ingredients and their kinds, steps in order, graded amounts, times and oven temperatures, with meat or not."""

from typing import NamedTuple

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import Line, lines, tell
from kanary.text.labelled.words import recipe as words

RECIPE = concept("domain.recipe", "the text is a recipe", switch=False)
INGREDIENT = concept("recipe.ingredient", "food that goes into the dish is named", switch=False)
MEAT = concept("recipe.meat", "meat that goes into the dish is named", parent=INGREDIENT)
VEGETABLE = concept("recipe.vegetable", "a vegetable that goes into the dish is named", parent=INGREDIENT, switch=False)
SPICE = concept("recipe.spice", "a spice, a herb or salt is named", parent=INGREDIENT, switch=False)
DAIRY = concept("recipe.dairy", "something made of milk goes into the dish", parent=INGREDIENT)
VEGETARIAN = concept("recipe.vegetarian", "the dish is said to be without meat")
STEP = concept("recipe.step", "a step of the method", unit="place in the order, from 1", switch=False)
GRAMS = concept("recipe.grams", "an amount is given by weight", unit="grams", switch=False, common=True)
VOLUME = concept("recipe.volume", "an amount of liquid is given", unit="millilitres", switch=False, common=True)
OVEN = concept("recipe.oven", "the temperature of the oven is given", unit="degrees Celsius")
MINUTES = concept("recipe.minutes", "a length of time is given", unit="minutes", switch=False, common=True)


class Item(NamedTuple):
    """A line of the list of ingredients."""

    name: str
    kind: str
    unit: str
    """``g``, ``ml`` or ``""`` for a count."""
    amount: int


MAIN = {kind: lines(*(text.replace("[main ", f"[{kind} ") for text in words.MAIN_TEXTS)) for kind in (MEAT, INGREDIENT)}
MIX = {kind: lines(*(text.replace("[fat ", f"[{kind} ") for text in words.MIX_TEXTS)) for kind in (DAIRY, INGREDIENT)}
STYLES = ("commas", "dashes", "after", "colons")


def _listed(p: Passage, items: list[Item], people: int) -> bool:
    """The list of ingredients, in one of several layouts; whether it ends with a new line."""
    style = p.pick(STYLES)
    head = p.pick(words.LIST_HEADS).format(people=people)
    if style != "commas" and not head.endswith(":"):
        head += ":"
    p.say((" " if style == "commas" else "\n") + head)
    for at, item in enumerate(items):
        amount = f"{item.amount} {item.unit}".rstrip()
        marks = (GRAMS,) if item.unit == "g" else (VOLUME,) if item.unit == "ml" else ()
        value = float(item.amount)
        if style == "after":
            p.say("\n")
            p.say(item.name, item.kind)
            p.say(" (")
            p.say(amount, *marks, value=value)
            p.say(")")
            continue
        p.say("\n- " if style == "dashes" else "\n" if style == "colons" else " and" if at == len(items) - 1 else "")
        p.say(amount if style != "commas" else " " + amount, *marks, value=value)
        p.say(" of" if item.unit and style != "colons" else ":" if style == "colons" else "")
        p.say(" " + item.name, item.kind)
        if style == "commas" and at < len(items) - 2:
            p.say(",")
    p.say("." if style == "commas" else "\n")
    return style != "commas"


def _method(p: Passage, steps: list[tuple[Line, ...]], fill: dict[str, str | float], after_list: bool) -> None:
    """The steps, numbered or joined by links."""
    numbered = p.number(0, 2) == 0
    end = "\n" if numbered else " "
    links, first = p.some(words.LINKS, len(steps) + 1), p.pick(("First, ", "To begin with, ", "", ""))
    last = p.pick(("Finally, ", "To finish, ", "", ""))
    for at, options in enumerate(steps, 1):
        link = "" if numbered else first if at == 1 else last if at == len(steps) else links[at]
        said = p.pick(options)
        p.say(("" if at == 1 and after_list else end) + (f"{at}. " if numbered else ""))
        start = len(p)
        if link:
            said = LOWERED[said]
        tell(p, said, fill, link)
        p.mark(start, len(p), STEP, value=float(at))
        p.say(".")


def _lower(said: Line) -> Line:
    """The same line, for the middle of a sentence."""
    first = said.parts[0]
    return said._replace(parts=(first[:1].lower() + first[1:], *said.parts[1:]))


LOWERED = {
    said: _lower(said)
    for group in (*vars(words).values(), *MAIN.values(), *MIX.values())
    if isinstance(group, tuple)
    for said in group
    if isinstance(said, Line)
}


@family("recipe")
def recipe(p: Passage) -> None:
    sweet = p.draw.random() < 0.3
    oven, dairy = p.decide(OVEN, 0.55), p.decide(DAIRY, 0.5)
    fill: dict[str, str | float] = {
        "style": p.pick(words.STYLES),
        "people": p.pick((4, 6, 8, 10)),
        "issue": p.number(2, 940),
        "oven": 10 * p.number(14, 22),
        "m1": p.number(2, 9),
        "m2": p.number(3, 12),
        "m3": 5 * p.number(4, 18),
        "shape": p.pick(words.SHAPES),
    }
    with p.during(RECIPE):
        (_sweet if sweet else _savoury)(p, fill, oven, dairy)
        if p.number(0, 2) == 0:
            tell(p, p.pick(words.NOTES), fill, "\n")


def _savoury(p: Passage, fill: dict[str, str | float], oven: bool, dairy: bool) -> None:
    meat, vegetarian, share = p.decide(MEAT, 0.6), p.decide(VEGETARIAN, 0.5), p.draw.random()
    mains = words.MEATS if meat else words.MEATLESS
    kind = MEAT if meat else INGREDIENT
    fill["main"] = mains[int(share * len(mains))]
    for slot, options in (
        ("veg", words.VEGETABLES),
        ("filling", words.FILLINGS),
        ("spice", words.SPICES),
        ("dairy", words.DAIRIES),
        ("liquid", words.LIQUIDS),
        ("fat", words.FATS),
        ("dish", words.DISHES),
    ):
        fill[slot] = p.pick(options)
    items = [
        Item(str(fill["main"]), kind, "g", 50 * p.number(5, 24)),
        Item(str(fill["veg"]), VEGETABLE, "g", 50 * p.number(3, 18)),
        Item(str(fill["filling"]), INGREDIENT, "g", 20 * p.number(6, 25)),
        Item(str(fill["liquid"]), INGREDIENT, "ml", 50 * p.number(4, 24)),
        Item(str(fill["fat"]), INGREDIENT, "ml", 5 * p.number(3, 12)),
    ]
    grams = 10 * p.number(5, 25)
    p.draw.shuffle(items)
    if dairy:
        items.append(Item(str(fill["dairy"]), DAIRY, "g", grams))
    tell(p, p.pick(words.TITLES), fill, "")
    note, noted = p.pick(words.CARNIVORE if meat else words.VEGETARIAN), vegetarian
    if noted:
        tell(p, note, fill)
    after_list = p.number(0, 3) > 0 and _listed(p, items, int(fill["people"]))
    steps = [words.PREPARE, words.FRY, MAIN[kind], words.SEASON, words.FILL, words.OVEN if oven else words.STOVE]
    if p.number(0, 1):
        steps[2:4] = steps[3:1:-1]
    steps.append(words.FINISH if dairy else words.PLAIN_FINISH)
    _method(p, steps, fill, after_list)


def _sweet(p: Passage, fill: dict[str, str | float], oven: bool, dairy: bool) -> None:
    for slot, options in (
        ("fruit", words.FRUITS),
        ("nuts", words.NUTS),
        ("flour", words.FLOURS),
        ("sugar", words.SUGARS),
        ("sweet", words.SWEET_SPICES),
        ("dish", words.CAKES),
    ):
        fill[slot] = p.pick(options)
    fill["butter"] = "butter" if dairy else "margarine"
    butter = DAIRY if dairy else INGREDIENT
    items = [
        Item(str(fill["butter"]), butter, "g", 25 * p.number(3, 12)),
        Item(str(fill["sugar"]), INGREDIENT, "g", 25 * p.number(3, 10)),
        Item(str(fill["flour"]), INGREDIENT, "g", 50 * p.number(3, 10)),
        Item(str(fill["fruit"]), INGREDIENT, "g", 50 * p.number(4, 20)),
        Item(str(fill["nuts"]), INGREDIENT, "g", 25 * p.number(2, 8)),
        Item("eggs", INGREDIENT, "", p.number(2, 6)),
    ]
    p.draw.shuffle(items)
    tell(p, p.pick(words.SWEET_TITLES), fill, "")
    after_list = p.number(0, 3) > 0 and _listed(p, items, int(fill["people"]))
    steps = [MIX[butter], words.EGGS, words.FLOUR, words.FRUIT, words.SWEET_OVEN if oven else words.SWEET_STOVE]
    if p.number(0, 1):
        steps.insert(0, words.FRUIT_FIRST)
    _method(p, [*steps, words.SWEET_DAIRY if dairy else words.SWEET_FINISH], fill, after_list)
