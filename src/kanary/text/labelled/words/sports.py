"""Kinds of sport and sentences of the match reports."""

from typing import NamedTuple

from kanary.text.labelled.shared import Line, lines


class Sport(NamedTuple):
    """A kind of sport."""

    name: str
    """Of its concept, after ``sports.``."""
    plays: tuple[Line, ...]
    """Moments of a match, with the words of this sport marked."""
    low: tuple[int, int]
    """Fewest and most points of the side that has fewer."""
    gap: tuple[int, int]
    """Smallest and greatest difference."""


def _sport(name: str, low: tuple[int, int], gap: tuple[int, int], *plays: str) -> Sport:
    return Sport(name, lines(*(text.replace("[s ", f"[sports.{name} ") for text in plays)), low, gap)


SPORTS = (
    _sport(
        "football",
        (0, 3),
        (1, 5),
        "{^one} [s [past headed] a corner kick against the crossbar].",
        "[s The goalkeeper [past tipped] a volley from {one} over the crossbar].",
        "{^one} [s [past stepped] up to the penalty spot and [past hit] the post].",
        "[s A sliding tackle by {two} [past stopped] the counter-attack].",
        "{^two} [s [past bent] a free kick around the wall].",
        "[s A yellow card for {two} [past followed] in the second half].",
        "[s The flag [past went] up: {one} [past was] offside].",
        "{^one} [s [past dribbled] past two defenders and [past crossed] from the touchline].",
    ),
    _sport(
        "basketball",
        (58, 96),
        (2, 29),
        "{^one} [s [past sank] three three-pointers in a row].",
        "{^two} [s [past took] eleven rebounds].",
        "[s A slam dunk by {one} [past shook] the backboard].",
        "{^two} [s [past missed] both free throws].",
        "[s The point guard, {one}, [past dribbled] behind the back].",
        "[s After the fourth quarter timeout, {two} [past switched] to zone defence].",
        "{^one} [s [past banked] a lay-up off the glass].",
    ),
    _sport(
        "ice_hockey",
        (0, 4),
        (1, 6),
        "{^one} [s [past slapped] the puck against the mask of the keeper].",
        "{^two} [s [past went] to the penalty box for tripping].",
        "[s During a power play, {one} [past hit] the post twice].",
        "{^two} [s [past won] nine face-offs].",
        "{^one} [s [past lost] a skate blade behind the blue line].",
        "[s Two body checks by {two} [past rattled] the boards].",
    ),
    _sport(
        "rugby",
        (5, 22),
        (2, 31),
        "{^one} [s [past touched] down for a try in the corner].",
        "{^two} [s [past kicked] the conversion between the posts].",
        "[s The scrum [past collapsed] three times near {two}].",
        "{^one} [s [past broke] out of a maul and [past ran] forty metres].",
        "{^two} [s [past stole] a line-out].",
        "[s The fly-half, {one}, [past dropped] a goal from the halfway line].",
    ),
    _sport(
        "volleyball",
        (0, 2),
        (1, 3),
        "{^one} [s [past served] two aces].",
        "{^two} [s [past put up] a double block at the net].",
        "{^one} [s [past smashed] a spike down the line].",
        "[s The libero, {two}, [past dug] balls from the floor].",
        "[s In the second set, {one} [past saved] two set points].",
        "[s The setter, {two}, [past hid] every pass until the last moment].",
    ),
    _sport(
        "water_polo",
        (3, 11),
        (1, 8),
        "{^one} [s [past lobbed] the ball over the keeper from the two-metre line].",
        "{^two} [s [past swam] up for every sprint for the ball].",
        "[s Three exclusion fouls [past sent] {two} out of the pool].",
        "{^one} [s [past rose] waist-high from the water and [past scored] with the left hand].",
        "[s The eggbeater kick of {one} [past kept] the defenders at a distance].",
    ),
)
COMMON = lines(
    "[sports.term The referee [past checked] the watch and [past waved] play on].",
    "[sports.term The captain, {two}, [past argued] with the referee].",
    "[sports.term The coach of {other} [past used] every substitute on the bench].",
    "{^one} [sports.term [past limped] off after a foul and [past came] back with a bandage].",
    "[sports.term The defence of {own} [past worked] in pairs].",
    "[sports.term A pass by {two} [past found] nobody].",
    "[sports.term {^one} [past came] on as a substitute].",
    "[sports.term The teams [past changed] ends].",
)
COLOUR = lines(
    "A brass band [past played] before the start.",
    "Fog [past crept] over the stands from the river.",
    "The caretaker [past swept] confetti from the steps until midnight.",
    "{^one}, born in a village near the border, [now works] as a dentist on weekdays.",
    "A dog [past ran] between the benches and [past had] to be caught.",
    "Sausages [past sold] out within an hour.",
    "The mayor [past sat] in the third row and [past wrote] letters.",
    "{^two} [past celebrated] a birthday that day.",
    "A spare ball [past landed] in the tuba of the band.",
    "Schoolchildren [past waved] paper flags in two colours.",
)
TITLES = lines(
    "From the newsletter of {own}.",
    "For the supporters of {own}, the report from {place}.",
    "{own}: our match of the week.",
    "We of {own}, round {round}.",
    "{own} fan page, {day}.",
    "News for all friends of {own}.",
    "The chronicle of {own}, entry {round}.",
    "The {own} Gazette, issue {round}.",
    "By a season-ticket holder of {own}.",
    "Hello, {own} family!",
    "Behind the scenes at {own}, our club.",
    "{own} till we drop: a fan's diary.",
    "Round {round}, as seen by {own}.",
    "Members' letter of {own}, {day}.",
)
OPENINGS = (
    "On {day}, {own} [past met] {other} in {place}.",
    "{^other} [past came] to {place} on {day}.",
    "Our [kind {sort}] side [past travelled] to {place} to face {other}.",
    "{day} in {place}, {own} against {other}, the {round}th meeting of the two clubs.",
    "The draw [past sent] {own} to {place}, where {other} [past waited].",
)
OUTCOME = (
    "[@ {^winner} [past beat] {loser}] [sports.margin=margin {score}].",
    "[@ {^loser} [past lost] to {winner}], [sports.margin=margin {score}].",
    "At the final whistle [@ the points [past went] to {winner}], who [past had scored] more in the end:"
    " [sports.margin=margin {score}].",
    "[@ {^winner} [past defeated] {loser}] by [sports.margin=margin {score}].",
    "In the end, [@ {loser} [past went] home empty-handed] after a [sports.margin=margin {score}].",
    "[@ {^winner} [past overcame] {loser}] with a final score of [sports.margin=margin {score}].",
    "[@ Victory [past belonged] to {winner}] ([sports.margin=margin {score}]).",
    "[@ {^loser} [past fell] to {winner}], [sports.margin=margin {score}] on the scoreboard.",
)
DRAW = lines(
    "[sports.draw {^own} and {other} [past shared] the points], [sports.margin=margin {score}].",
    "[sports.draw The match [past ended] level] at [sports.margin=margin {score}].",
    "[sports.draw Neither {own} nor {other} [past found] a winner]: [sports.margin=margin {score}].",
    "[sports.draw It [past finished] all square], [sports.margin=margin {score}].",
)
STOPPED = lines(
    "A power cut [past stopped] the match before the end; no result [past was recorded].",
    "The match [past was abandoned] after a burst pipe and [past was struck] from the list.",
    "Half an hour before the end, a storm [past closed] the ground; who [past was] to win or lose [past stayed] open.",
)
AFTER = lines(
    ", the team bus [past left] late.",
    ", training [past resumed] on Monday with {round} players.",
    ", {own} [past stood] in place {rank} of the table.",
    ", the cook [past served] pancakes to both sides.",
)
"""What follows the words for a victory, a defeat or neither."""
DISTRACTORS = lines(
    "Winning [past was] not on anyone's mind when the kit man [past told] a story of 1958.",
    "A defeat in the cup of 1971 [now hangs] framed in the clubhouse.",
    "Victory Street, outside the ground, [past was] closed to cars.",
    "The draw for the club lottery [past took] place at half-time.",
)
ATTENDANCE = lines(
    "[sports.attendance=crowd {crowd} spectators] [past filled] the stands.",
    "The turnstiles [past counted] [sports.attendance=crowd {crowd} visitors].",
    "[sports.attendance=crowd {crowd} people] [past watched].",
)
NO_ATTENDANCE = lines(
    "The stands [past held] regulars and a few tourists.",
    "Nobody [past counted] the spectators.",
    "The turnstiles [past were] out of order, so all [past entered] free of charge.",
)
FUTURE = lines(
    "Next week {own} [will will play] away.",
    "On the following {day}, the two clubs [will will meet] again.",
    "{^one} [will is going to marry] in June, without a ball at the altar.",
    "The club [will will repair] the roof in summer.",
)
CLUBS_FIRST = [
    "Ashford",
    "Brookdale",
    "Carrow",
    "Denby",
    "Easton",
    "Farley",
    "Grantham",
    "Harlow",
    "Ivybridge",
    "Kelso",
    "Larkhall",
    "Melrose",
    "Norwood",
    "Oakham",
    "Penrith",
    "Redcar",
    "Selby",
    "Thornton",
    "Ulverston",
    "Wexley",
]
CLUBS_LAST = [
    "Rovers",
    "Falcons",
    "Athletic",
    "Wanderers",
    "Comets",
    "Rangers",
    "United",
    "Bears",
    "Harriers",
    "Mariners",
    "Tigers",
    "Pioneers",
    "Swifts",
]
