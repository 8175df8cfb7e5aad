"""Weather reports: graded temperature and wind, rain or not, past, present and future."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import FUTURE, PAST, PRESENT, lines, tell
from kanary.text.labelled.words import weather as words

WEATHER = concept("domain.weather", "the text is a weather report", switch=False)
RAIN = concept("weather.rain", "rain is spoken of as falling or coming", common=True)
TEMPERATURE = concept(
    "weather.temperature", "a temperature is given", unit="degrees Celsius", switch=False, common=True
)
COLD = concept(
    "weather.cold", "the temperature given is below 5 degrees", parent=TEMPERATURE, unit="degrees Celsius", common=True
)
HOT = concept(
    "weather.hot", "the temperature given is above 28 degrees", parent=TEMPERATURE, unit="degrees Celsius", common=True
)
WIND = concept("weather.wind", "a wind speed is given", unit="kilometres per hour", common=True)

SKIES = ["cloudy", "hazy", "pale", "grey", "milky", "leaden", "colourless", "patchy", "dim", "whitish"]
WHEN = (0, 1, 1, 2, 2, 3, 3)
"""Tenses of the topics: 0 for none."""
PARTS = ("morning", "afternoon", "evening")


def _temperatures(names: str) -> words.Forms:
    """The sentences that give a temperature, as marked with the concepts ``names``."""
    none, past, now, will = (
        lines(*(text.replace("[@ ", f"[{names}=t ") for text in texts)) for texts in words.TEMPERATURE_TEXTS
    )
    return none, past, now, will


GIVEN = {
    COLD: _temperatures(f"{COLD}+{TEMPERATURE}"),
    HOT: _temperatures(f"{HOT}+{TEMPERATURE}"),
    TEMPERATURE: _temperatures(TEMPERATURE),
}
TENSES = (PAST, PRESENT, FUTURE)


def degrees(n: int) -> str:
    """``minus 3 degrees``, ``1 degree``."""
    return f"{'minus ' if n < 0 else ''}{abs(n)} degree{'' if abs(n) == 1 else 's'}"


def _temperature(p: Passage) -> tuple[words.Forms, int]:
    """What is said of the temperature, and the temperature."""
    cold, hot, given = p.decide(COLD, 0.2), p.decide(HOT, 0.15), p.draw.random() < 0.3
    share = p.draw.random()
    if cold:
        return GIVEN[COLD], int(-4 + share * 9)
    if hot:
        return GIVEN[HOT], int(29 + share * 10)
    return GIVEN[TEMPERATURE] if given else words.NO_TEMPERATURE, int(5 + share * 24)


@family("weather")
def weather(p: Passage) -> None:
    on = [False, *(p.decide(tense, 0.65) for tense in TENSES)]
    temperature, t = _temperature(p)
    rain, wind = p.decide(RAIN, 0.45), p.decide(WIND, 0.5)
    fill: dict[str, str | float] = {
        "day": p.pick(words.DAYS),
        "part": p.pick(PARTS),
        "issue": p.number(12, 380),
        "t": t,
        "deg": degrees(t),
        "kmh": p.number(12, 95),
        "hpa0": p.number(981, 1002),
        "hpa": p.number(1003, 1017),
        "hpa2": p.number(1018, 1038),
        "full": p.number(40, 99),
        "humid": p.number(35, 98),
        "rise": f"{p.number(5, 7)}:{p.number(10, 59)}",
        "set": f"{p.number(17, 20)}:{p.number(10, 59)}",
    }
    topics = [
        temperature,
        words.RAIN_LINES if rain else words.DRY_LINES,
        words.WIND_LINES if wind else words.NO_WIND,
        *p.some((words.SKY, words.LIFE, words.WATER, words.ELSEWHERE, words.LIFE), p.number(3, 5)),
    ]
    p.draw.shuffle(topics)
    whens = sorted([p.pick(WHEN) for _ in topics])
    areas, sides, skies = (p.some(options, 8) for options in (words.AREAS, words.SIDES, SKIES))
    fill["town"], fill["other"] = p.some(words.TOWNS, 2)
    fill["now"], fill["next"] = p.some(words.HOURS, 2)
    with p.during(WEATHER):
        fill["area"] = areas[7]
        tell(p, p.pick(words.OPENINGS), fill, "")
        for at, (when, forms) in enumerate(zip(whens, topics, strict=True)):
            fill["area"], fill["side"], fill["sky"] = areas[at % 7], sides[at], skies[at]
            tell(p, p.pick(forms[when if on[when] else 0]), fill)
        if p.number(0, 1):
            tell(p, p.pick(words.CLOSINGS), fill)
