"""Facts with two possible answers: what is the case, what is not, how it is asked and how it is claimed.

``{x}`` and ``{y}`` are the two answers in either order, ``{t}`` the right one and ``{f}`` the wrong one; ``{ax}`` and
``{ay}`` have an indefinite article. ``{o}`` is what it is about, ``{A}`` who tells or acted. In claims, ``|`` stands where
the answer does.
"""

from typing import NamedTuple

from kanary.text.labelled.words.honesty import _rows as rows


class Kind(NamedTuple):
    """One kind of fact."""

    things: tuple[str, ...]
    values: tuple[str, ...]
    """Possible answers; empty: people's names."""
    told: tuple[str, ...]
    """Sentences that settle it."""
    questions: tuple[str, ...]
    indirect: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]
    """What is said before and after the answer in direct speech."""
    reports: tuple[tuple[str, str], ...]
    endings: tuple[tuple[str, str], ...]


def kind(
    things: str, values: str, told: str, questions: str, indirect: str, claims: str, reports: str, endings: str
) -> Kind:
    def halves(text: str) -> tuple[tuple[str, str], ...]:
        return tuple((before.rstrip(), after) for before, _, after in (row.partition("|") for row in rows(text)))

    return Kind(
        tuple(thing.strip() for thing in things.split(",")),
        tuple(value.strip() for value in values.split(",") if value.strip()),
        rows(told),
        rows(questions),
        rows(indirect),
        halves(claims),
        halves(reports),
        halves(endings),
    )


PLACE = kind(
    "key, ring, letter, map, coin, watch, ticket, photograph, necklace, compass, silver spoon, thimble, brooch, diary, seal, "
    "medal, passport, bracelet, pocket knife, recipe, purse, telescope, whistle, music box, prize money, contract",
    "drawer, basket, box, chest, jar, bucket, wardrobe, crate, cupboard, bag, trunk, barrel, suitcase, desk, piano, teapot, "
    "stove, clock, boot, vase, violin case, flour bin",
    """
    There were only two hiding places, {ax} and {ay}, and {A} put the {o} into the {t}.
    {A} laid the {o} in the {t}. The {f} stayed empty.
    The {o} could have gone into the {x} or the {y}; it went into the {t}, where {A} left it.
    The {f} had a broken lock, so {A} hid the {o} in the {t} instead.
    {A} took the {o} out of the {f}, dropped it into the {t}, and nobody touched it after that.
    At first {A} thought of the {f}, but in the end {A2} chose the {t} for the {o}.
    Two things stood against the wall, {ax} and {ay}. The {o} was in the {t}.
    Of the {x} and the {y}, only one was ever used: the {o} lay in the {t}.
    "Not the {f}," {A} thought, and slipped the {o} into the {t}.
    Anyone would have searched the {x} and the {y}. That morning the {o} was in the {t}, under a cloth.
    The {o} had its place in the {t}, and not in the {f}, since the spring.
    """,
    "Where is the {o}?/Where can I find the {o}?/Does anybody know where the {o} is?/Who can tell me where the {o} is?".replace(
        "/", "\n"
    ),
    "where the {o} was\nwhere the {o} was kept\nwhere to look for the {o}",
    """
    The {o} is in the|
    You will find the {o} in the|
    The {o} lies in the|
    Somebody put the {o} in the|
    It is in the|. I mean the {o}
    The {o} has been in the| all day
    """,
    "the {o} was in the|\nthe {o} lay in the|\nthey would find the {o} in the|",
    "Later the {o} was found, of course, in the|.\nAll this time the {o} lay in the|.\nAt midnight the {o} was still in the|.",
)

ROOM = kind(
    "cat, dog, hen, parrot, goat, tortoise, puppy, kitten, goose, monkey, piglet, lamb, ferret, foal, calf, peacock, duck",
    "attic, cellar, kitchen, garage, library, workshop, greenhouse, barn, stable, pantry, nursery, laundry, hall, chapel, "
    "bathroom, dining room, boathouse, tower",
    """
    Two doors were open that day, one to the {x} and one to the {y}. The {o} was in the {t}.
    The {o} had been in the {f} at dawn, but since breakfast {A} had kept it safe in the {t}.
    {A} carried the {o} into the {t} and locked the door; the {f} was too cold.
    It was too noisy for the {o} in the {f}, so {A} brought it to the {t}.
    On such days the {o} went either into the {x} or into the {y}. This time it was the {t}.
    Between the {x} and the {y}, the {o} preferred the {t}, and there it was asleep.
    {A} looked into the {f}, which was empty, and then into the {t}, where the {o} was.
    The {x} and the {y} were the only warm rooms. {A} saw the {o} asleep in the {t}.
    """,
    "Where is the {o}?\nHas anyone seen the {o}?\nWhere did the {o} go?\nIn which room is the {o}?",
    "where the {o} was\nwhat had become of the {o}\nwhere one could see the {o}",
    """
    The {o} is in the|
    You will find the {o} in the|
    Somebody shut the {o} in the|
    Try the|, that is where the {o} is
    The {o} is fast asleep in the|
    I have just seen the {o} in the|
    """,
    "the {o} was in the|\nthe {o} was sleeping in the|\none could hear the {o} in the|",
    "A moment later a noise showed that the {o} was in the|.\nThey went and looked, and the {o} was in the|.",
)

COLOUR = kind(
    "door, gate, boat, fence, bench, cart, kite, bicycle, wagon, roof, mailbox, tent, signpost, sledge, garden chair, flag, "
    "barn door, lantern, caravan, rowing boat",
    "red, blue, green, yellow, black, white, brown, grey, purple, pink, silver, golden",
    """
    There were two tins of paint in the shed, {x} and {y}, and {A} painted the {o} {t}.
    The {o} used to be {f}. On Friday {A} gave it a new coat, and from then on it was {t}.
    People argued whether {x} or {y} would suit the {o}; {t} it became.
    {A} wanted a {o} in {x} or {y}, and got a {t} one.
    The neighbours had a {o} in {f}, but ours was {t}.
    For the {o} one could choose between {x} and {y}. {A} chose {t}, and the paint was dry by noon.
    Not {f}, like the year before, but {t}: that was the colour of the {o} now.
    Somebody had once planned a {f} {o}. {A}, however, made it {t}.
    """,
    "What colour is the {o}?\nWhich colour does the {o} have?\nHow shall I know the {o}? What colour is it?",
    "what colour the {o} was\nin what colour the {o} had been painted\nby which colour one could know the {o}",
    """
    The {o} is|
    They painted the {o}|
    Look for a {o} painted|
    The colour of the {o} is|
    The {o} has always been|, as long as I have known it
    """,
    "the {o} was|\nthe {o} had been painted|\nthe colour of the {o} was|",
    "Anyone who walked past could see that the {o} was|.\nIn the light of the moon the {o} shone|.",
)

NUMBER = kind(
    "eggs, lamps, chairs, sacks, candles, ducks, horses, boats, bottles, tickets, sheep, loaves, tents, apples, barrels, "
    "beehives, ladders, umbrellas, cheeses, kittens, trumpets, letters",
    "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, twenty",
    """
    There was some dispute whether there were {x} or {y} {o}, so {A} counted them: there were {t}.
    The list said {f} {o}, but {A} counted {t}, and the list was corrected.
    Last year there had been {f} {o}. Now there were {t}.
    {A} had ordered {f} {o}; what came was {t}, no more and no less.
    One could buy the {o} by the {x} or by the {y}, and {A} took {t}.
    It had to be {x} or {y}. {A} went through the {o} one by one and arrived at {t}.
    At the last count there were {t} {o}, and not {f}, as somebody had feared.
    """,
    "How many {o} are there?\nHow many {o} do you have?\nWhat is the number of {o}?",
    "how many {o} there were\nthe number of {o}\nhow many {o} one could count on",
    """
    The number of {o} is|
    As for the {o}, there are|
    If you count the {o}, you get to|
    Of {o} we have exactly|
    I have counted the {o}, and there are|
    """,
    "the number of {o} was|\nof {o} there were exactly|\nas for the {o}, there were|",
    "They counted the {o} once more by candlelight and came to|.\nWhen the {o} were counted again, there were|.",
)

DOER = kind(
    "broke the window, ate the last cake, rang the bell, let the goat out, painted the gate, won the race, fed the hens, wrote "
    "the poem, baked the bread, opened the cage, lit the fire, repaired the roof, paid the bill, planted the roses, cut the "
    "rope, caught the big fish, sent the telegram, hid the treasure, spilled the ink, called the doctor",
    "",
    """
    Only {x} and {y} had been in the house, and it was {t} who {o}.
    {A} had seen it: while {f} was away at market, {t} {o}.
    People guessed at {x} or {y}, but in fact {t} {o}.
    {x} and {y} were twins, and often taken for each other. That day it was {t} who {o}.
    Not {f}, as some supposed, but {t} {o}, in full view of the square.
    It lay between {x} and {y}, for the others were abroad. {A} knew that {t} {o}.
    {t} {o}, very early, when {f} was still asleep.
    """,
    "Who {o}?\nWho was it that {o}?\nTell me, who {o}?",
    "who {o}\nwho it was that {o}\nwho really {o}",
    """
    It was| who {o}
    That was|, nobody else {o}
    The one who {o} was|
    The person you want is|. That is who {o}
    I saw it happen. It was| who {o}
    """,
    "it was| who {o}\nit had been| who {o}\nthe one who {o} was|",
    "In the end everybody knew that it was| who {o}.\nThe one who {o}, after all, was|.",
)

DAY = kind(
    "ferry to the islands, bus to the coast, night train, market, circus, mail coach, great auction, choir concert, meeting, "
    "puppet show, regatta, cattle fair, steamer, balloon, parade, school play",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    """
    In other months the {o} was on {f}; in that month it was on {t}, as {A} read on the poster.
    The {o} could only be on {x} or on {y}. {A} looked it up: it was on {t}.
    They had moved the {o} from {f} to {t}, and it stayed there.
    {x} and {y} were both free, but the {o} had been fixed for {t}.
    According to the printed plan, the {o} was due on {t}; {f} was a holiday.
    {A} made a note that the {o} was on {t}, having first thought of {f}.
    """,
    "On what day is the {o}?\nWhen is the {o}?\nFor which day is the {o} planned?",
    "on what day the {o} was\nwhen the {o} was due\nthe day of the {o}",
    """
    The {o} is on|
    It is on|, the {o}
    You must wait for the {o} until|
    The day of the {o} is|
    They have fixed the {o} for|
    """,
    "the {o} was on|\nthe day of the {o} was|\none had to wait for the {o} until|",
    "As planned, the {o} was on|.\nWhen the day of the {o} came, it was a|.",
)

SIDE = kind(
    "harbour, mill, spring, castle, hospital, station, monastery, lighthouse, bakery, inn, quarry, lake, bridge, museum, camp",
    "left, right",
    """
    Where the road forked, the way to the {o} was on the {t}; on the {f} there was only marsh.
    There was a path on the {x} and a path on the {y}. {A} had often walked the one to the {o}, which is on the {t}.
    To reach the {o}, one had to keep to the {t}. Whoever went to the {f} came to a bare cliff.
    {A} set up a post at the fork: {t} for the {o}, {f} for the dump.
    The old way to the {o} had been on the {f}, but since the flood it was on the {t}.
    """,
    "Which way is the {o}?\nHow do I get to the {o}?\nOn which side is the way to the {o}?",
    "which way led to the {o}\nhow to reach the {o}\non which side the way to the {o} was",
    """
    The way to the {o} is on the|
    For the {o}, always keep to the|
    If you want to reach the {o}, turn|
    You get to the {o} by the path on the|
    """,
    "the way to the {o} was on the|\nfor the {o} one had to turn|",
    "The lights of the {o} were to be seen on the|.\nIn the end they reached the {o}, on the|.",
)

OWNER = kind(
    "umbrella, bicycle, grey horse, sailing boat, green coat, violin, camera, orchard, house on the hill, white goat, "
    "motorcycle, fur hat, walking stick, suitcase, chess set, old dictionary, windmill, field by the brook",
    "",
    """
    The {o} had first been the property of {f}. {A} was there when it was sold to {t}.
    Two people had laid claim to the {o}, {x} and {y}; it belonged to {t}.
    {x} and {y} lived side by side, and the {o} was the property of {t}.
    The {o} belonged to {t}, who now and then lent it to {f}.
    {f} would have liked to have the {o}, but it belonged to {t}.
    When the inheritance was divided between {x} and {y}, the {o} went to {t}.
    """,
    "Whose is the {o}?\nWho is the owner of the {o}?\nTo whom does the {o} belong?",
    "whose the {o} was\nwho owned the {o}\nto whom the {o} belonged",
    """
    The {o} belongs to|
    The owner of the {o} is|
    The {o} is the property of|
    If you want the {o}, go and see|, whose it is
    """,
    "the {o} belonged to|\nthe owner of the {o} was|\nthe {o} was the property of|",
    "That evening the {o} was returned to its owner,|.\nThe {o}, by the way, still belongs to|.",
)

KINDS = (PLACE, ROOM, COLOUR, NUMBER, DOER, DAY, SIDE, OWNER)
