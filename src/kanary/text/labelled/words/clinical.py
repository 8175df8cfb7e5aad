"""Words and sentences of the abstracts of clinical trials."""

from typing import NamedTuple

from kanary.text.labelled.shared import lines


class Illness(NamedTuple):
    name: str
    who: str
    """Those who have it, after their number: ``adults with migraine``."""
    measure: str
    """What is counted at the end."""


ILLNESSES = tuple(
    Illness(*row.split(" | "))
    for row in (
        "chronic migraine | adults with chronic migraine | the number of headache days per month",
        "mild asthma | patients with mild asthma | lung capacity",
        "type 2 diabetes | patients with type 2 diabetes | fasting glucose",
        "hypertension | outpatients with hypertension | systolic blood pressure",
        "knee osteoarthritis | patients with knee osteoarthritis | pain on walking",
        "chronic insomnia | adults with chronic insomnia | total sleep time",
        "plaque psoriasis | patients with plaque psoriasis | the area of affected skin",
        "seasonal rhinitis | gardeners with seasonal rhinitis | the nasal symptom score",
        "major depression | adults with major depression | the depression score",
        "iron deficiency | women with iron deficiency | haemoglobin concentration",
        "Crohn's disease | patients with Crohn's disease | the rate of remission",
        "epilepsy | adults with epilepsy | seizure frequency",
        "low back pain | nurses with low back pain | the disability index",
        "restless legs | patients with restless legs | the number of awakenings per night",
        "gout | men with gout | serum urate",
        "rosacea | patients with rosacea | the redness score",
        "chronic cough | former smokers with chronic cough | the number of coughs per hour",
        "vertigo | elderly patients with vertigo | the balance score",
    )
)
STEMS = [
    "vel",
    "tor",
    "car",
    "zam",
    "lop",
    "bren",
    "dax",
    "fen",
    "mir",
    "sol",
    "quin",
    "rav",
    "tam",
    "ul",
    "pex",
    "neb",
    "cor",
    "ald",
    "jo",
    "hex",
]
MIDDLES = ["a", "e", "i", "o", "u", "avi", "oli", "eri", "ano", "ista", "ome", "uri", "epi"]
ENDINGS = [
    "pril",
    "statin",
    "mab",
    "zole",
    "lukast",
    "triptan",
    "fenac",
    "dipine",
    "sartan",
    "gliptin",
    "oxetine",
    "parin",
    "cillin",
    "tinib",
]
THERAPIES = (
    "a home exercise programme",
    "guided relaxation",
    "a Mediterranean diet",
    "acupuncture",
    "group singing",
    "bright light therapy",
    "a breathing course",
    "cognitive training",
    "water gymnastics",
    "a smartphone diary",
)
JOURNAL = (
    "rural clinics",
    "university hospitals",
    "general practices",
    "outpatient departments",
    "specialist centres",
    "community health centres",
)
COUNTRIES = [
    "Denmark",
    "Portugal",
    "Kenya",
    "Chile",
    "Japan",
    "Canada",
    "Poland",
    "Egypt",
    "Austria",
    "Vietnam",
    "Ireland",
    "Uruguay",
    "Morocco",
    "Finland",
]
MILD = (
    "mild headache",
    "transient nausea",
    "dry mouth",
    "slight dizziness",
    "itching at the wrist",
    "drowsiness in the first week",
    "a passing rash",
    "light stomach cramps",
)
SERIOUS = (
    "acute kidney failure",
    "a severe allergic reaction",
    "internal bleeding",
    "a heart attack",
    "liver damage that required a transplant",
    "loss of sight in one eye",
)

MILD_STRAINS = (
    "sore muscles",
    "slight dizziness",
    "boredom",
    "drowsiness in the first week",
    "light cramps in the calf",
    "a sprained finger",
)
SERIOUS_INJURIES = ("a broken hip after a fall", "a heart attack", "a stroke", "acute heart failure", "a torn tendon")

TITLES = lines(
    "{^drug} for {illness}: a randomised trial in {country}.",
    "A trial of {drug} in {illness}.",
    "{^illness} and {drug}: results after {weeks} weeks.",
    "{^drug} or not? A study of {illness} in {places} in {country}.",
    "Effect of {drug} on {measure} in {illness}.",
    "Abstract {issue}. {^drug} in the treatment of {illness}.",
)
BACKGROUND = lines(
    "[sg {^illness}] [now is] common in {country}, and [pl few treatments] [now are] available.",
    "Whether [sg {drug}] [now helps] against {illness} [now is] not known.",
    "[pl Earlier studies] of {drug} in {illness} [past were] small and [past lacked] a long follow-up.",
    "For decades [pl physicians] [past used] {drug} without knowing whether [sg it] [past acted] on {illness}.",
    "In a pilot study, [sg {drug}] [past was] popular with people with {illness}.",
    "[pl Guidelines] on {illness} [now rest] on thin evidence.",
    "The role of {drug} in the care of people with {illness}: a question without an answer so far.",
    "[pl Current therapies] for {illness} [now leave] every third person without relief.",
)
AIM = lines(
    "[pl We] [past examined] whether [sg {drug}] [past changed] {measure}.",
    "[sg The aim] of this study [past was] to measure the effect of {drug} on {measure}.",
    "[sg Our question] [past was] simple: whether [sg {measure}] [past changed] under {drug}.",
    "[sg The main endpoint] [past was] {measure} after {weeks} weeks.",
    "[pl The authors] [past compared] {measure} at baseline and at week {weeks}.",
)
COUNTED = lines(
    "In {places} in {country}, [pl [clinical.patients=n {n} {who}]] [past were assigned] at random to one of two groups.",
    "[pl [clinical.patients=n {n} {who}]] [past took part]; [sg their median age] [past was] {age} years.",
    "[pl We] [past enrolled] [clinical.patients=n {n} {who}] from {places} in {country}.",
    "Between March and October, [pl [clinical.patients=n a total of {n} {who}]] [past entered] the study.",
    "[sg The trial] [past included] [clinical.patients=n {n} {who}] with a median age of {age} years.",
)
UNCOUNTED = lines(
    "[pl {^who}] [past were recruited] in {places} in {country}; [pl the numbers] [now are given] in table {table}.",
    "[sg The study] [past took place] in {places} in {country} over {weeks} weeks.",
    "[pl {^who}] aged {age} or older [past were] eligible.",
    "[pl We] [past invited] {who} by letter; [sg every second one] [past agreed].",
    "[sg Recruitment] [past began] in {country} and [past lasted] {months} months.",
)
DOSED = lines(
    "[pl Those] in the first group [past received] [clinical.dose=mg {mg} mg] of {drug} {often}.",
    "[sg {^drug}] [past was given] at a dose of [clinical.dose=mg {mg} mg] {often} for {weeks} weeks.",
    "[sg One group] [past took] {drug} ([clinical.dose=mg {mg} mg], {often}).",
    "Treatment: [clinical.dose=mg {mg} mg] of {drug} {often}, by mouth.",
    "[sg The dose] of {drug} [past was] [clinical.dose=mg {mg} mg] {often}, with a meal.",
)
UNDOSED = lines(
    "[sg The first group] [past received] {drug} for {weeks} weeks.",
    "[sg {^drug}] [past was offered] {often} by trained staff.",
    "[pl Members] of the first group [past followed] the schedule of {drug} {often}.",
    "[sg The intervention] [past consisted] of {drug} {often}, over {weeks} weeks.",
)
PLACEBO = lines(
    "[pl The others] [past took] [clinical.placebo an identical placebo].",
    "[sg The comparison group] [past was given] [clinical.placebo inactive tablets of the same colour and taste].",
    "[sg The second arm] [past received] [clinical.placebo placebo] on the same days.",
    "[clinical.placebo+pl Sugar pills] [past were handed out] to the second group.",
    "[pl The controls] [past swallowed] [clinical.placebo capsules without any active substance].",
)
SHAM = lines(
    "[pl The others] [past attended] [clinical.placebo sham sessions without any active element].",
    "[sg The comparison group] [past was given] [clinical.placebo a mock version, designed to do nothing].",
    "[sg The second arm] [past received] [clinical.placebo a sham treatment] of the same length.",
    "[pl The controls] [past got] [clinical.placebo an imitation of the treatment, empty of its substance].",
)
NO_PLACEBO = lines(
    "[pl The others] [past continued] with their usual care; [sg a placebo] [past was] not used.",
    "[sg The comparison group] [past waited] for {weeks} weeks and [past began] its own treatment afterwards.",
    "[sg The second arm] [past received] standard tablets of proven value.",
    "[pl The controls] [past got] a leaflet and two visits by a nurse.",
    "[sg Usual care], without pills of any other kind, [past served] as the comparison.",
)
BLIND = lines(
    "[clinical.blinded [pl Neither the participants nor their doctors] [past knew] the allocation].",
    "[sg The trial] [past was] [clinical.blinded double-blind].",
    "[clinical.blinded [sg The allocation] [past was concealed] from patients, nurses and assessors] until the end.",
    "[clinical.blinded [pl All raters] [past were kept] unaware of the groups].",
)
OPEN = lines(
    "[pl Both the participants and their doctors] [past knew] the allocation.",
    "[sg The trial] [past was] open-label, for [sg blinding] [past was] impracticable.",
    "[sg The allocation] [past was printed] on every chart for patients and nurses to read.",
    "[pl All raters] [past were told] of the groups.",
)
POSITIVE = lines(
    "[clinical.positive [sg {^measure}] [past improved] by {pct} per cent under {drug}], against {low} per cent in the "
    "comparison group (P = 0.00{digit}).",
    "At week {weeks}, [clinical.positive [sg {measure}] [past was] clearly better with {drug} than without] "
    "(P = 0.00{digit}).",
    "[clinical.positive [sg The effect] of {drug} on {measure} [past was] large and significant].",
    "[clinical.positive [sg {^drug}] [past outperformed] the comparison by {pct} per cent].",
    "[clinical.positive [pl Two thirds of the first group] [past recovered]], far more than in the second.",
)
NEGATIVE = lines(
    "[clinical.negative [sg {^quality}] [past was] no better with {drug} than without] (P = 0.{two}).",
    "[clinical.negative [sg {^drug}] [past had] no effect on {quality}].",
    "[clinical.negative [pl The two groups] [past did not differ] in {quality}] at week {weeks}.",
    "[clinical.negative [sg The benefit] that [pl many] [past had expected] for {quality} [past failed] to appear].",
    "[clinical.negative In {quality}, [sg {drug}] [past fell] short of the comparison] (P = 0.{two}).",
)
NEUTRAL = lines(
    "[pl {^kept} per cent] of the participants [past completed] all visits.",
    "[pl Blood samples] [past were taken] at weeks 0, 4 and {weeks}.",
    "[pl The groups] [past were] alike in age, sex and weight at baseline.",
    "[pl Missing values] [past were replaced] by the last observation.",
    "[pl All analyses] [past followed] a plan filed in advance.",
    "[sg An independent committee] [past reviewed] the records every {months} months.",
)
QUALITIES = (
    "quality of life",
    "the use of rescue medicine",
    "body weight",
    "the number of sick days",
    "grip strength",
    "fatigue",
    "the rate of hospital admission",
)
SIDE = lines(
    "[clinical.side_effects [pl Adverse events] [past occurred] in {few} participants].",
    "[clinical.side_effects [pl {^number} people] [past stopped] treatment because of side effects].",
    "[clinical.side_effects [pl Unwanted effects] [past were] more frequent under {drug}].",
)
SIDE_MILD = lines(
    "[clinical.mild_side_effect [pl {^number} participants] [past complained] of {mild}].",
    "[clinical.mild_side_effect [sg {^mild}] [past was noted] in {few} cases].",
    "As for safety, [clinical.mild_side_effect [sg {mild}] [past affected] {few} participants].",
)
SIDE_SERIOUS = lines(
    "[clinical.serious_side_effect [sg {^serious}] [past occurred] in one participant].",
    "[clinical.serious_side_effect In {number} cases [sg {drug}] [past led] to {serious}].",
    "[clinical.serious_side_effect [sg One person] in the first group [past was admitted] with {serious}].",
)
SAFE = lines(
    "[pl No side effects] [past were reported].",
    "[pl Adverse events] [past did not occur] in either group.",
    "[sg Nobody] [past stopped] because of unwanted effects.",
    "[sg {^drug}] [past was tolerated] without any adverse reaction.",
    "[pl Questions] about headache, nausea and rash [past were answered] with no throughout.",
)
GOOD_END = lines(
    "In conclusion, [clinical.positive [sg {drug}] [now is] an effective treatment for {illness}].",
    "[pl These results] [now mean] that [clinical.positive [sg {drug}] [now works] in {illness}].",
    "[clinical.positive [pl Patients] with {illness} [now benefit] from {drug}].",
)
BAD_END = lines(
    "In conclusion, [clinical.negative [sg {drug}] [now does not improve] {quality} in {illness}].",
    "[pl We] [now see] [clinical.negative no reason to prescribe {drug} for {quality}].",
    "[pl The data] [now show] that [clinical.negative [sg {drug}] [now is] useless with regard to {quality}].",
)
MIXED_END = lines(
    "[sg The verdict] on {drug} in {illness} [now is] mixed.",
    "[pl Both findings] [now deserve] a careful reading.",
)
UNKNOWN_END = lines(
    "[sg The code] [past was not broken] in time, and [pl the results] [now are] still unknown.",
    "[pl The data] on {measure} [now are] under analysis; [pl conclusions] [now are] premature.",
    "[sg The report] on {measure} [now awaits] the last visits, so [sg nothing] [now is] certain.",
)
FUTURE = lines(
    "[sg A larger trial] [will will begin] next year.",
    "[pl The participants] [will will be followed] for another {months} months.",
    "[pl We] [will are going to publish] the full data set.",
    "[sg A second study] in {country} [will will test] younger people.",
)
REGISTERED = lines(
    "Trial registration: {issue}-{table}{two}.",
    "Funding: the health ministry of {country}.",
    "Protocol number {issue}/{two}.",
    "Keywords: {illness}, {measure}, controlled trial.",
)
OFTEN = ("once a day", "twice a day", "every morning", "at bedtime", "three times a week", "every other day")
NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "eleven", "twelve"]
HEADINGS = (
    ("Background:", "Methods:", "Results:", "Conclusion:"),
    ("INTRODUCTION.", "METHODS.", "RESULTS.", "INTERPRETATION."),
    ("Context.", "Design.", "Findings.", "Meaning."),
    ("", "", "", ""),
    ("", "", "", ""),
)
