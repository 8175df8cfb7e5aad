"""Match reports, written for the friends of one side: won, lost or drawn, graded margins, kinds of sport."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import FUTURE, lines, tell
from kanary.text.labelled.words import sports as words
from kanary.text.labelled.world import MEN, WOMEN

DOMAIN = concept("domain.sports", "the text is a match report", switch=False)
OUTCOME = concept("sports.outcome", "it is told who won, or that nobody did", switch=False)
WIN = concept("sports.win", "the side for whose friends the report is written is said to have won", parent=OUTCOME)
LOSS = concept("sports.loss", "the side for whose friends the report is written is said to have lost", parent=OUTCOME)
DRAW = concept("sports.draw", "the match is said to have ended level", parent=OUTCOME)
MARGIN = concept(
    "sports.margin",
    "a final score is given, measured for the side for whose friends the report is written",
    unit="points of that side less those of the other",
    switch=False,
)
ATTENDANCE = concept("sports.attendance", "the number of spectators is given", unit="persons")
TERM = concept("sports.term", "a moment of play is told, or the sport is named", switch=False)
for _sport in words.SPORTS:
    concept(
        f"sports.{_sport.name}",
        f"a moment of play peculiar to {_sport.name.replace('_', ' ')} is told, or it is named",
        parent=TERM,
        switch=False,
    )

TOLD = {kind: lines(*(text.replace("[@ ", f"[{kind} ") for text in words.OUTCOME)) for kind in (WIN, LOSS)}
OPENINGS = {
    sport: lines(*(text.replace("[kind ", f"[sports.{sport.name} ") for text in words.OPENINGS))
    for sport in words.SPORTS
}
NEVER_LEVEL = ("basketball", "volleyball")
"""Sports whose matches are played until somebody has won."""
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PLACES = (
    "Milltown",
    "Larch Valley",
    "Port Ardin",
    "the old arena",
    "the sports park",
    "the school grounds",
    "Mill Lane",
)


@family("sports")
def sports(p: Passage) -> None:
    won, lost, drawn = p.decide(WIN, 0.38), p.decide(LOSS, 0.5), p.decide(DRAW, 0.65)
    counted, future = p.decide(ATTENDANCE, 0.45), p.decide(FUTURE, 0.4)
    sport = p.pick(words.SPORTS)
    firsts, lasts = p.some(words.CLUBS_FIRST, 2), p.some(words.CLUBS_LAST, 2)
    own, other = (f"{first} {last}" for first, last in zip(firsts, lasts, strict=True))
    team = p.some(WOMEN if p.number(0, 1) else MEN, 3)
    low, gap = p.number(*sport.low), p.number(*sport.gap)
    if sport.name == "volleyball":
        gap = 3 - low
    decided = won or lost
    winner, loser = (own, other) if won else (other, own)
    fill: dict[str, str | float] = {
        "own": own,
        "other": other,
        "one": team[0],
        "winner": winner,
        "loser": loser,
        "margin": (gap if won else -gap) if decided else 0,
        "place": p.pick(PLACES),
        "round": p.number(4, 19),
        "rank": p.pick(("three", "four", "five", "six", "seven", "eight", "nine")),
        "crowd": p.number(120, 9800),
        "sort": sport.name.replace("_", " "),
    }
    score = f"{low + gap}–{low}" if decided else f"{low}–{low}"
    fill["score"] = score if p.number(0, 1) else score.replace("–", " to ")
    fill["day"], second = p.some(DAYS, 2)
    share, after = p.draw.random(), p.draw.random()
    kind = WIN if won else LOSS
    told = TOLD[kind] if decided else words.DRAW if drawn and sport.name not in NEVER_LEVEL else words.STOPPED
    result = told[int(share * len(told))]
    said_of = [
        *p.some(sport.plays, 3),
        *p.some(words.COMMON, p.number(0, 2)),
        *p.some(words.COLOUR, p.number(1, 3)),
        *p.some(words.DISTRACTORS, p.number(0, 1)),
        p.pick(words.ATTENDANCE if counted else words.NO_ATTENDANCE),
    ]
    plan = [(said, team[at % 3]) for at, said in enumerate(said_of)]
    p.draw.shuffle(plan)
    plan.insert(p.pick((0, len(plan), len(plan))), (result, ""))
    last, again = p.pick(words.FUTURE), p.number(0, 1)
    with p.during(DOMAIN):
        tell(p, p.pick(words.TITLES), fill, "")
        if p.number(0, 3):
            tell(p, p.pick(OPENINGS[sport]), fill)
        for said, name in plan:
            fill["one"] = fill["two"] = name
            tell(p, said, fill)
        if again:
            _after(p, kind if decided else None)
            tell(p, words.AFTER[int(after * len(words.AFTER))], fill, "")
        if future:
            fill["day"], fill["one"] = second, team[0]
            tell(p, last, fill)


def _after(p: Passage, kind: str | None) -> None:
    """How the match ended, once more: a question, for who won was told long before."""
    p.say(" After our" if kind else " After the")
    start = len(p) - len("our")
    if kind:
        good, bad = " victory", " defeat"
        answer, wrong = (good, bad) if kind == WIN else (bad, good)
        p.ask("outcome", answer, wrong)
        p.say(answer)
        p.mark(start, len(p), kind)
    else:
        p.say(" match")
