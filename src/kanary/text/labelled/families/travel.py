"""Travel texts: real and invented landmarks of several kinds, praise and complaint, guides and diaries."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import FUTURE, NEGATIVE, POSITIVE, Line, tell
from kanary.text.labelled.words import travel as words

TRAVEL = concept("domain.travel", "the text is about a journey or a place to visit", switch=False)
LANDMARK = concept("landmark.any", "a landmark is named", switch=False)
NATURAL = concept("landmark.natural", "a landmark made by nature is named", parent=LANDMARK)
BUILDING = concept("landmark.building", "a building known as a landmark is named", parent=LANDMARK)
RELIGIOUS = concept("landmark.religious", "a place of worship known as a landmark is named", parent=LANDMARK)
REAL = concept("landmark.real", "a landmark is named that exists in the world", parent=LANDMARK, switch=False)
INVENTED = concept("landmark.invented", "a landmark is named that exists in no atlas", parent=LANDMARK, switch=False)


def _with(group: tuple[tuple[Line, ...], ...], name: str) -> tuple[tuple[Line, ...], ...]:
    """The lines with ``name`` in the place of the mark ``@``."""
    return tuple(
        tuple(
            said._replace(marks=tuple((name if mark[0] == "@" else mark[0], *mark[1:]) for mark in said.marks))
            for said in options
        )
        for options in group
    )


LANDMARKS = {
    (kind, diary): _with(words.DIARY if diary else words.GUIDE, kind) for kind in (REAL, INVENTED) for diary in (0, 1)
}
_PLAIN_STARTS = (
    "We ",
    "A ",
    "The ",
    "Somebody ",
    "Children ",
    "Our ",
    "Street ",
    "Painters ",
    "School ",
    "Couples ",
    "Banks ",
)


def _lowered(said: Line) -> Line:
    """The line for the middle of a sentence; the same one where it begins with a name."""
    first, *rest = said.parts
    return said._replace(parts=(first[0].lower() + first[1:], *rest)) if first.startswith(_PLAIN_STARTS) else said


LOWERED = {
    said: _lowered(said)
    for group in (*LANDMARKS.values(), (words.DIARY_NEUTRAL, words.GUIDE_NEUTRAL))
    for options in group
    for said in options
}
"""Of the lines that may stand after a link."""
SLOTS = ("natural", "building", "religious", "other")


def _invented(p: Passage) -> tuple[str, ...]:
    """A town that does not exist, with its landmarks."""
    heads, tails = p.some(words.HEADS, 5), p.some(words.TAILS, 5)
    town, *names = (head + tail for head, tail in zip(heads, tails, strict=True))
    forms = (words.NATURAL, words.BUILDING, words.RELIGIOUS, words.OTHER)
    return town, *(p.pick(form).format(name) for form, name in zip(forms, names, strict=True))


@family("travel")
def travel(p: Passage) -> None:
    shown = [p.decide(NATURAL, 0.55), p.decide(BUILDING, 0.55), p.decide(RELIGIOUS, 0.5), p.draw.random() < 0.5]
    praise, blame, future = p.decide(POSITIVE, 0.5), p.decide(NEGATIVE, 0.45), p.decide(FUTURE, 0.4)
    diary = p.number(0, 1)
    kind = REAL if p.number(0, 1) else INVENTED
    town, *sights = p.pick(words.REAL) if kind is REAL else _invented(p)
    things = p.some(words.THINGS, 3)
    fill: dict[str, str | float] = {
        "town": town,
        "day": p.number(2, 12),
        "hours": p.number(3, 19),
        "fee": p.number(29, 60),
        "page": p.number(11, 87),
        "price": p.number(3, 28),
        "steps": p.number(88, 420),
        "friend": p.pick(words.FRIENDS),
        **dict(zip(SLOTS, sights, strict=True)),
    }
    neutral = p.some(words.DIARY_NEUTRAL if diary else words.GUIDE_NEUTRAL, 6)
    plan: list[tuple[Line, str]] = [
        (p.pick(options) if show else _spend(p, other), "")
        for options, show, other in zip(LANDMARKS[kind, diary], shown, neutral, strict=False)
    ]
    good, bad, plain = p.draw.random(), p.draw.random(), words.PLAIN[diary]
    for (on, options, otherwise, share), thing in zip(
        ((praise, words.PRAISE[diary], plain[0], good), (blame, words.BLAME[diary], plain[1], bad)),
        things,
        strict=False,
    ):
        chosen = options if on else otherwise
        plan.append((chosen[int(share * len(chosen))], thing))
    plan.append((neutral[4], ""))
    if p.number(0, 1):
        plan.append((neutral[5], ""))
    p.draw.shuffle(plan)
    opening, last = p.pick(words.DIARY_OPENINGS if diary else words.GUIDE_OPENINGS), p.pick(words.FUTURE[diary])
    links = iter(p.some(words.DIARY_LINKS if diary else words.GUIDE_LINKS, p.number(1, 3)))
    with p.during(TRAVEL):
        if p.number(0, 2):
            tell(p, p.pick(words.TITLES), fill, "")
        tell(p, opening, fill, " " if len(p) else "")
        for said, thing in plan:
            fill["thing"] = thing
            lowered = LOWERED.get(said, said)
            link = next(links, "") if p.number(0, 1) and lowered is not said else ""
            tell(p, lowered if link else said, fill, f" {link}")
        if future:
            tell(p, last, fill)


def _spend(p: Passage, said: Line) -> Line:
    """``said``, after as many draws as a choice takes."""
    p.draw.random()
    return said
