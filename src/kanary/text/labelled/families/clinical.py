"""Abstracts of clinical trials: graded dose and number of patients, side effects, results, placebo, blinding."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.shared import FUTURE, tell
from kanary.text.labelled.words import clinical as words

TRIAL = concept("domain.clinical", "the text is the abstract of a clinical trial", switch=False)
DOSE = concept("clinical.dose", "the dose of a medicine is given", unit="milligrams", switch=False)
PATIENTS = concept("clinical.patients", "the number of those who took part is given", unit="persons")
SIDE_EFFECTS = concept("clinical.side_effects", "side effects are reported as having happened")
MILD = concept("clinical.mild_side_effect", "a mild side effect is reported", parent=SIDE_EFFECTS, switch=False)
SERIOUS = concept("clinical.serious_side_effect", "a grave side effect is reported", parent=SIDE_EFFECTS, switch=False)
RESULT = concept("clinical.result", "the outcome of the trial is told", switch=False)
POSITIVE = concept("clinical.positive", "the treatment is said to have worked", parent=RESULT)
NEGATIVE = concept("clinical.negative", "the treatment is said not to have worked", parent=RESULT)
PLACEBO = concept("clinical.placebo", "some of those who take part are given a sham medicine")
BLINDED = concept("clinical.blinded", "those who take part, or assess, are kept from knowing the groups")

ENDINGS = {
    (True, True): words.MIXED_END,
    (True, False): words.GOOD_END,
    (False, True): words.BAD_END,
    (False, False): words.UNKNOWN_END,
}
"""What closes the abstract, by whether it worked and whether it did not."""
DOSES = (2, 2.5, 5, 7.5, 10, 15, 20, 25, 40, 50, 60, 75, 80, 100, 120, 150, 200, 250, 300, 400, 500, 750, 1000)


def _fill(p: Passage, medicine: bool) -> dict[str, str | float]:
    """What the sentences of a passage speak of."""
    illness = p.pick(words.ILLNESSES)
    pill = p.pick(words.STEMS) + p.pick(words.MIDDLES) + p.pick(words.ENDINGS)
    therapy = p.pick(words.THERAPIES)
    return {
        "drug": pill if medicine else therapy,
        "illness": illness.name,
        "who": illness.who,
        "measure": illness.measure,
        "country": p.pick(words.COUNTRIES),
        "places": f"{p.pick(words.NUMBERS)} {p.pick(words.JOURNAL)}",
        "weeks": 2 * p.number(3, 26),
        "months": p.number(3, 18),
        "age": p.number(31, 68),
        "n": p.number(12, 600) * 2,
        "mg": p.pick(DOSES),
        "often": p.pick(words.OFTEN),
        "pct": p.number(21, 68),
        "low": p.number(2, 9),
        "digit": p.number(1, 9),
        "two": p.number(11, 97),
        "kept": f"{p.pick(('Eighty', 'Ninety'))}-{p.pick(('two', 'four', 'five', 'seven', 'nine'))}",
        "quality": p.pick(words.QUALITIES),
        "number": p.pick(words.NUMBERS),
        "few": p.pick(words.NUMBERS),
        "mild": p.pick(words.MILD if medicine else words.MILD_STRAINS),
        "serious": p.pick(words.SERIOUS if medicine else words.SERIOUS_INJURIES),
        "table": p.number(1, 4),
        "issue": p.number(101, 987),
    }


@family("clinical")
def clinical(p: Passage) -> None:
    side, placebo, blinded = p.decide(SIDE_EFFECTS, 0.5), p.decide(PLACEBO, 0.5), p.decide(BLINDED, 0.45)
    good, bad, counted = p.decide(POSITIVE, 0.42), p.decide(NEGATIVE, 0.3), p.decide(PATIENTS, 0.55)
    future, medicine = p.decide(FUTURE, 0.35), p.draw.random() < 0.7
    dosed = p.draw.random() < 0.8 and medicine
    fill = _fill(p, medicine)
    background = [p.pick(words.BACKGROUND), p.pick(words.AIM)]
    sham = words.PLACEBO if medicine else words.SHAM
    methods = [
        p.pick(words.COUNTED if counted else words.UNCOUNTED),
        p.pick(words.DOSED if dosed else words.UNDOSED),
        p.pick(sham if placebo else words.NO_PLACEBO),
    ]
    methods.insert(p.number(1, 3), p.pick(words.BLIND if blinded else words.OPEN))
    grade = p.pick((words.SIDE, words.SIDE_MILD, words.SIDE_MILD, words.SIDE_SERIOUS))
    results = [p.pick(words.NEUTRAL), p.pick(grade if side else words.SAFE)]
    outcomes = [(p.pick(words.NEGATIVE), bad), (p.pick(words.POSITIVE), good)]
    place, first = p.number(0, 2), p.number(0, 1)
    for line, holds in outcomes if first else outcomes[::-1]:
        if holds:
            results.insert(place, line)
    end = p.pick(ENDINGS[good, bad])
    outlook = p.pick(words.FUTURE)
    closing = [end, outlook] if future else [end]

    headings, gap = p.pick(words.HEADINGS), p.pick((" ", " ", "\n"))
    with p.during(TRIAL):
        opening = p.number(0, 3)
        if opening:
            tell(p, p.pick(words.TITLES), fill, "")
        for heading, section in zip(headings, (background, methods, results, closing), strict=True):
            space = gap if len(p) else ""
            if heading:
                p.say(space + heading)
                space = " "
            for said in section:
                tell(p, said, fill, space)
                space = " "
        if p.number(0, 2) == 0:
            tell(p, p.pick(words.REGISTERED), fill)
