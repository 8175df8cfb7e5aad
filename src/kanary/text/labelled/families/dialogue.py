"""Dialogues: two people take turns, ask and answer, are polite or not, and praise or blame what they talk about."""

from typing import NamedTuple

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import NEGATIVE, POSITIVE, line, tell
from kanary.text.labelled.words import dialogue as words
from kanary.text.labelled.words.dialogue_topics import TOPICS, Topic, Turn, turn
from kanary.text.labelled.world import MEN, WOMEN

DIALOGUE = concept("domain.dialogue", "the text is a conversation", switch=False)
QUESTION = concept("dialogue.question", "somebody asks for information or an opinion", switch=False, common=True)
REQUEST = concept("dialogue.request", "somebody wants another to do something", switch=False, common=True)
POLITE = concept("dialogue.polite_request", "a request that is put politely", parent=REQUEST, common=True)
BLUNT = concept(
    "dialogue.blunt_request", "a request that is put as an order", parent=REQUEST, switch=False, common=True
)
REPLY = concept("dialogue.reply_to_request", "the reply to a request, whatever it says", switch=False, common=True)
AGREED = concept("dialogue.agreement", "the reply to a request is yes, in whatever words", parent=REPLY, common=True)
REFUSED = concept("dialogue.refusal", "the reply to a request is no, in whatever words", parent=REPLY, common=True)
COURTESY = concept("dialogue.courtesy", "words that are said for the sake of manners", switch=False, common=True)
GREETING = concept("dialogue.greeting", "somebody greets another", parent=COURTESY, common=True)
FAREWELL = concept("dialogue.farewell", "somebody takes leave", parent=COURTESY, common=True)
APOLOGY = concept("dialogue.apology", "somebody asks for pardon", parent=COURTESY, common=True)
THANKS = concept("dialogue.thanks", "somebody thanks another", parent=COURTESY, common=True)
SARCASM = concept("dialogue.sarcasm", "praise that is meant as blame", common=True)


class Request(NamedTuple):
    """A request in two tones, with three replies."""

    polite: Turn
    blunt: Turn
    agreed: Turn
    refused: Turn
    neither: Turn


class Mishap(NamedTuple):
    """Something goes wrong; what is said to it in irony, and plainly."""

    event: Turn
    ironic: Turn
    plain: Turn


REQUESTS = tuple(Request(*(turn(text) for text in row)) for row in words.REQUESTS)
MISHAPS = tuple(
    Mishap(turn(event), turn(ironic.replace("[", "[neg+sarcasm ", 1), sarcasm=SARCASM), turn(plain))
    for event, ironic, plain in words.MISHAPS
)
SETTINGS = tuple(line(text) for text in words.SETTINGS)
GESTURES = tuple(line(text) for text in words.GESTURES)
SAYS = ("said", "said", "murmured", "remarked", "exclaimed", "declared")
REPLIES = ("said", "answered", "replied")
ASKS = ("asked", "asked", "inquired")
Who = tuple[str, str, str]
"""A name, ``her`` or ``his``, ``she`` or ``he``."""
PEOPLE: tuple[Who, ...] = tuple((name, "her", "she") for name in WOMEN) + tuple((name, "his", "he") for name in MEN)


class Step(NamedTuple):
    """What one speaker says before the other does."""

    said: tuple[Turn, ...]
    concepts: tuple[str, ...] = ()
    """They hold over all of it."""
    before: str = ""
    """Said first, outside the concepts."""


@family("dialogue")
def dialogue(p: Passage) -> None:
    one, other = p.some(PEOPLE, 2)
    topic = p.pick(TOPICS)
    scripted = p.draw.random() < 0.4
    with p.during(DIALOGUE):
        if not scripted or p.draw.random() < 0.4:
            tell(p, p.pick(SETTINGS), {"a": one[0], "b": other[0], "where": topic.where}, " " if len(p) else "")
        steps = _steps(p, topic)
        if scripted:
            _script(p, (one, other), steps)
        else:
            _prose(p, (one, other), steps)


def _steps(p: Passage, topic: Topic) -> list[Step]:
    """A conversation; the speakers alternate. Switching a concept never changes whose turn it is."""
    courtesies = p.draw.random() < 0.62
    steps = []
    if p.decide(GREETING, 0.5 if courtesies else 0.0):
        draw = p.fork("greet")
        steps += [Step((turn,), (GREETING,)) for turn in draw.sample(words.GREETINGS, 2)]
    if p.decide(APOLOGY, 0.3 if courtesies else 0.0):
        draw = p.fork("sorry")
        steps += [Step((draw.choice(words.APOLOGIES),), (APOLOGY,)), Step((draw.choice(words.APOLOGY_ANSWERS),))]
    frank = p.draw.random() < 0.58
    parts = (_opinions(p, topic, frank), _request(p, courtesies), _mishap(p, frank))
    kept = p.pick(((0, 1), (0, 2), (0, 1, 2), (0, 2), (1, 0), (2, 0), (0, 2, 1), (1, 2), (0, 2)))
    for part in kept:
        steps += parts[part]
    steps += _end(p, courtesies)
    return steps


def _opinions(p: Passage, topic: Topic, frank: bool) -> list[Step]:
    """What both think of something, or what else they say of it, and perhaps a question about it."""
    good, bad = p.decide(POSITIVE, 0.7 if frank else 0.0), p.decide(NEGATIVE, 0.6 if frank else 0.0)
    neutral = p.some(topic.neutral, 2)
    views = [p.fork("good").choice(topic.positive) if good else neutral[0]]
    views.append(p.fork("bad").choice(topic.negative) if bad else neutral[1])
    if p.draw.random() < 0.5:
        views.reverse()
    if p.draw.random() < 0.4:
        steps = [Step((p.pick(topic.questions),), (QUESTION,)), Step((views[0],))]
        facts = p.some(topic.facts, p.number(0, 2))
    else:
        steps = [Step((p.pick(topic.openings), views[0]))]
        facts = p.some(topic.facts, 1 if p.draw.random() < 0.12 else 0)
    for asked, answer in facts:
        steps += [Step((asked,), (QUESTION,)), Step((answer,))]
    return [*steps, Step((views[1],), (), p.pick(words.COUNTERS))]


def _request(p: Passage, courtesies: bool) -> list[Step]:
    """A request, polite or blunt, and a reply that is yes, no or neither."""
    request = p.pick(REQUESTS)
    polite = p.decide(POLITE, 0.5)
    refused = p.decide(REFUSED, 0.35)
    agreed = p.decide(AGREED, 0.6) and not refused
    asked = Step((request.polite,), (POLITE,)) if polite else Step((request.blunt,), (BLUNT,))
    if agreed or refused:
        reply = Step((request.agreed,), (AGREED,)) if agreed else Step((request.refused,), (REFUSED,))
    else:
        reply = Step((request.neither,), (REPLY,))
    thanks, plain = p.pick(words.THANKS), p.pick(words.PLAIN_ENDS)
    if p.decide(THANKS, 0.6 if courtesies and agreed else 0.0):
        return [asked, reply, Step((thanks,), (THANKS,))]
    return [asked, reply, Step((plain,))]


def _mishap(p: Passage, frank: bool) -> list[Step]:
    """Something has gone wrong, and the other says something ironic or something useful."""
    mishap = p.pick(MISHAPS)
    reply = mishap.ironic if p.decide(SARCASM, 0.6 if frank else 0.12) else mishap.plain
    return [Step((mishap.event,), (), p.pick(words.NEWS)), Step((reply,))]


def _end(p: Passage, courtesies: bool) -> list[Step]:
    """Somebody takes leave, or the conversation goes on elsewhere."""
    draw = p.fork("end")
    if p.decide(FAREWELL, 0.6 if courtesies else 0.0):
        return [Step((draw.choice(some),), (FAREWELL,)) for some in (words.FAREWELLS, words.FAREWELL_ANSWERS)]
    return [Step((turn,)) for turn in draw.choice(words.LAST_WORDS)]


def _speak(p: Passage, step: Step, listener: str, end: str = "") -> None:
    """Says what is said in one step; ``end`` replaces the last full stop."""
    p.say(step.before)
    slots = {"other": listener}
    with p.during(*step.concepts):
        for at, (said, sign) in enumerate(step.said):
            tell(p, said, slots, " " if at else "")
            p.say(end if end and sign == "." and at == len(step.said) - 1 else sign)


def _script(p: Passage, people: tuple[Who, Who], steps: list[Step]) -> None:
    """As in a play: ``Name: words``, with directions in brackets."""
    opened, closed = ("(", "):") if p.draw.random() < 0.5 else ("[", "]:")
    wrong = "]:" if closed == "):" else "):"
    for at, step in enumerate(steps):
        one, other = people[at % 2], people[1 - at % 2]
        draw = p.fork(f"turn {at - _before(steps)}")
        if len(p):
            p.say("\n")
        if at > 2:
            p.ask("turn", one[0], other[0])
        p.say(one[0])
        if draw.random() < 0.25:
            p.say(" " + opened + draw.choice(words.DIRECTIONS))
            p.ask("brackets", closed, wrong, '":')
            p.say(closed + " ")
        else:
            p.say(": ")
        _speak(p, step, other[0])


def _before(steps: list[Step]) -> int:
    """How many turns are manners that come before the matter itself: 0, 2 or 4."""
    return 2 * sum(step.concepts in ((GREETING,), (APOLOGY,)) for step in steps[:3:2])


def _prose(p: Passage, people: tuple[Who, Who], steps: list[Step]) -> None:
    """As in a novel: in quotation marks, with or without a word about who speaks."""
    gap = "\n" if p.draw.random() < 0.5 else " "
    moved = p.number(0, len(GESTURES) - 1)
    for at, step in enumerate(steps):
        one, other = people[at % 2], people[1 - at % 2]
        place = at - _before(steps)
        draw = p.fork(f"turn {place}")
        asks = step.said[-1].end == "?"
        replies = at > 0 and steps[at - 1].said[-1].end == "?"
        style, name, known = draw.random(), one[0], place > 1
        before, after = gap if at else " ", ""
        if style < 0.45 or (not known and style < 0.8):
            verb = draw.choice(ASKS if asks else REPLIES if replies else SAYS)
            if known and one[2] != other[2] and draw.random() < 0.3:
                name, verb = f"{one[2]} {'asked' if asks else 'said'}", ""
            after = f" {verb} {name}." if verb else f" {name}."
        elif style < 0.65:
            tell(p, GESTURES[(moved + place) % len(GESTURES)], {"n": name, "p": one[1]}, before)
            before = " "
        elif style < 0.8 or not known:
            before += f"{name} {'asked' if asks else 'replied' if replies else 'said'}, "
        p.say(before + '"')
        _speak(p, step, other[0], "," if after else "")
        p.say('"' + after)
