"""Children's stories: heroes whose full names come back, neighbours with titles, pronouns that agree, and feelings."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.templates import Filling, Sentence, tell
from kanary.text.labelled.words import story as words
from kanary.text.labelled.world import article

STORY = concept("domain.story", "the text is a children's story", switch=False)
REPEATED = concept(
    "induction.repeated_name", "a name that was said before, where the words before it leave no other choice"
)
ANIMAL = concept("story.animal", "the kind of animal that somebody in the story is")
FEELING = concept("feeling.any", "somebody feels something, said outright or shown", switch=False)
FEAR = concept("feeling.fear", "somebody is afraid, said outright or shown", parent=FEELING)
SADNESS = concept("feeling.sadness", "somebody is sad, said outright or shown", parent=FEELING)
ANGER = concept("feeling.anger", "somebody is angry, said outright or shown", parent=FEELING)
JOY = concept("feeling.joy", "somebody is glad, said outright or shown", parent=FEELING)

Slots = dict[str, Filling]


def _pronouns(subject: str, object_: str, possessive: str, other: str) -> Slots:
    """``other``: the possessive of the other gender, which is wrong where a question is asked."""
    reflexive = {"her": ("herself", "himself"), "his": ("himself", "herself")}[possessive]
    return {
        "s": Filling(subject),
        "S": Filling(subject.capitalize()),
        "o": Filling(object_),
        "p": Filling(possessive, (), "gender", (other,)),
        "P": Filling(possessive.capitalize()),
        "r": Filling(reflexive[0], (), "gender", (reflexive[1],)),
    }


PRONOUNS = (_pronouns("she", "her", "her", "his"), _pronouns("he", "him", "his", "her"))
PLACES = tuple((Filling(place), Filling(place[0].upper() + place[1:])) for place in words.PLACES)
ANIMAL_KINDS = tuple(Filling(kind, (ANIMAL,)) for kind in words.KINDS)
CHILDREN = Filling("girl"), Filling("boy")
HELPER_ANIMALS = tuple((Filling(article(kind)), Filling(kind, (ANIMAL,))) for kind in words.HELPER_KINDS)
HELPER_CRAFTS = tuple((Filling(article(kind)), Filling(kind)) for kind in words.CRAFTS)
CLOSE = Filling('"', (), "brackets", (",", " and", "."))

HOUSES: tuple[Slots, ...] = tuple(
    {
        "ship": Filling(name),
        "ship1": Filling(name.split()[0]),
        "ship2": Filling(name.split()[1], (REPEATED,), "repeated_name", (other.split()[1],)),
        "close": CLOSE,
    }
    for name, other in zip(words.SHIPS, words.SHIPS[1:] + words.SHIPS[:1], strict=True)
)
"""Names of houses, as slots."""


@family("story")
def story(p: Passage) -> None:
    slots = _cast(p)
    named = p.decide(REPEATED, 0.55)
    things, first, second = p.pick(words.PLOTS)
    slots["thing"] = Filling(p.pick(things))
    expressive = p.draw.random() < 0.62
    mood = p.draw.random() if expressive else 1.0
    house = p.draw.random() < 0.35
    with p.during(STORY):
        _tell(p, words.OPENINGS, slots)
        if house:
            slots.update(p.pick(HOUSES))
            _tell(p, words.SIGNS, slots)
        _tell(p, words.HELPERS, slots)
        for step in first:
            _tell(p, step, slots)
        _feel(p, mood, slots)
        for step in second[0 if named else 1]:
            _tell(p, step, slots)
        _after(p, slots, named, 0.6 if expressive else 0.0)
        if house:
            _tell(p, words.AT_SIGNS if named else words.AT_HOME, slots)
        elif p.draw.random() < 0.4:
            _tell(p, words.MORALS, slots)


def _tell(p: Passage, options: tuple[Sentence, ...], slots: Slots) -> None:
    tell(p, p.pick(options), slots)


def _cast(p: Passage) -> Slots:
    """The hero and the helper: names, kinds and pronouns, as slots."""
    male = p.number(0, 1)
    slots = dict(PRONOUNS[male])
    first = p.pick(words.BOYS if male else words.GIRLS)
    last, other_last = p.some(words.LAST, 2)
    slots["n"], slots["f"] = Filling(f"{first} {last}"), Filling(first)
    slots["F"] = slots["first"] = slots["f"]
    slots["last"] = Filling(last, (REPEATED,), "repeated_name", (other_last,))
    gender = p.number(0, 1)
    slots["t"] = Filling(p.pick(words.TITLES[gender]))
    helper, stranger = p.some(words.HELPER_NAMES[gender], 2)
    # Asked for and marked only where the name returns; the first time it is said, nothing tells it.
    slots["m"] = Filling(helper, (REPEATED,), "repeated_name", (stranger, last))
    slots["new"] = Filling(helper)
    slots["place"], slots["^place"] = p.pick(PLACES)
    animals = p.decide(ANIMAL, 0.55)
    kind, craft, animal = p.pick(ANIMAL_KINDS), p.pick(HELPER_CRAFTS), p.pick(HELPER_ANIMALS)
    slots["k"] = kind if animals else CHILDREN[male]
    slots["ma"], slots["mkind"] = animal if animals else craft
    return slots


def _feel(p: Passage, mood: float, slots: Slots) -> None:
    """How the hero takes the trouble: afraid, sad, angry, or none of them."""
    fear = p.decide(FEAR, float(mood < 0.3))
    sad = p.decide(SADNESS, float(0.3 <= mood < 0.58))
    angry = p.decide(ANGER, float(0.58 <= mood < 0.86))
    draw = p.fork("mood")
    for felt, options, name in ((fear, words.FEAR, FEAR), (sad, words.SADNESS, SADNESS), (angry, words.ANGER, ANGER)):
        if felt:
            with p.during(name):
                tell(p, draw.choice(options), slots)
            return
    tell(p, draw.choice(words.CALM), slots)


def _after(p: Passage, slots: Slots, named: bool, gladness: float) -> None:
    """Gladness or not, and what became of the hero's name."""
    draw = p.fork("joy")
    if p.decide(JOY, gladness):
        with p.during(JOY):
            tell(p, draw.choice(words.JOY), slots)
    else:
        tell(p, draw.choice(words.QUIET), slots)
    at = p.number(0, len(words.NAMED) - 1)
    if p.draw.random() < 0.6:
        tell(p, (words.NAMED if named else words.UNNAMED)[at], slots)
