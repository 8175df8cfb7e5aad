"""Legal notices: parties, obligations, permissions and prohibitions, deadlines, penalties and liability."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import Line, tell
from kanary.text.labelled.words import legal as words

LEGAL = concept("domain.legal", "the text is a legal notice", switch=False)
PARTY = concept("legal.party", "one of the two parties is named by its role", switch=False)
NORM = concept(
    "legal.norm", "it is laid down what a party must, may or must not do, or where that is laid down", switch=False
)
OBLIGATION = concept("legal.obligation", "a party is obliged to do something", parent=NORM)
PERMISSION = concept("legal.permission", "a party is allowed to do something", parent=NORM)
PROHIBITION = concept("legal.prohibition", "a party is forbidden to do something", parent=NORM)
DEADLINE = concept("legal.deadline", "a time is set by which something counts", unit="days")
PENALTY = concept("legal.penalty", "a sum falls due as a punishment", unit="euros")
LIABILITY = concept("legal.liability", "it is said who answers, or does not answer, for damage")


@family("legal")
def legal(p: Passage) -> None:
    obliged, allowed, forbidden = p.decide(OBLIGATION, 0.55), p.decide(PERMISSION, 0.5), p.decide(PROHIBITION, 0.5)
    deadline, penalty, liable = p.decide(DEADLINE, 0.5), p.decide(PENALTY, 0.45), p.decide(LIABILITY, 0.5)
    setting = p.pick(words.SETTINGS)
    duties, deeds, facts = p.some(setting.duties, 3), p.some(setting.deeds, 4), p.some(words.FACTS, 6)
    fill: dict[str, str | float] = {
        "title": setting.title,
        "first": setting.first,
        "second": setting.second,
        "place": setting.place,
        "sec": p.number(2, 94),
        "annex": p.number(1, 9),
        "year": p.number(1987, 2024),
        "old": p.number(1951, 1986),
        "reg": p.number(3, 199),
        "month": p.pick(words.MONTHS),
        "days": p.pick((3, 5, 7, 10, 14, 20, 21, 28, 30, 45, 60, 90)),
        "euros": p.pick((15, 20, 25, 40, 50, 80, 100, 150, 200, 250, 400, 500, 750, 900)),
    }
    norm, deadlines = p.pick(words.NORM), words.DEADLINE if deadline else words.NO_DEADLINE
    obligation, permission, prohibition = (p.pick(n) for n in (words.OBLIGATION, words.PERMISSION, words.PROHIBITION))
    plan: list[tuple[Line, int]] = [
        (obligation if obliged else facts[0], 0),
        (permission if allowed else facts[1], 0),
        (prohibition if forbidden else facts[2], 1),
        (p.pick(deadlines), 2),
        (p.pick(words.PENALTY if penalty else words.NO_PENALTY), 2),
        (p.pick(words.LIABILITY if liable else words.NO_LIABILITY), 2),
    ]
    if p.number(0, 2) == 0:
        plan.append((norm, 2))
    again = p.pick(words.OBLIGATION)
    if p.number(0, 1):
        plan.append((again if obliged else facts[3], 1))
    p.draw.shuffle(plan)
    numbering, gap = p.pick(words.NUMBERINGS), p.pick((" ", "\n"))
    with p.during(LEGAL):
        tell(p, p.pick(words.TITLES), fill, "")
        if p.number(0, 3):
            tell(p, p.pick(words.PREAMBLE), fill, gap)
        for at, (said, which) in enumerate(plan, 1):
            fill["duty"], fill["deed_may"], fill["deed_not"] = duties[which], deeds[which], deeds[which]
            tell(p, said, fill, gap + (numbering.format(n=at) if numbering else ""))
        if p.number(0, 1):
            tell(p, p.pick(words.CLOSINGS), fill, gap)
