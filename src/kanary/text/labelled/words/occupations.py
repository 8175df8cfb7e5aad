"""Occupations, and sentences about people who have one that would be true of any occupation and of either gender.

In the slots stand ``n`` (the person spoken of), ``m`` (another one), their pronouns (``he`` or ``mhe``, and so on, after
the form they have for a man), ``job`` and ``mjob`` with their articles ``a`` and ``ma``, and words for relatives, whose
genders are their own.
"""

from kanary.text.labelled.templates import phrased, split

STEREOTYPE_FEMALE = split(
    "attendant cashier teacher nurse assistant secretary auditor cleaner receptionist clerk counsellor designer hairdresser "
    "writer housekeeper baker accountant editor librarian tailor"
)
STEREOTYPE_MALE = split(
    "driver supervisor janitor cook mover labourer developer carpenter manager lawyer farmer salesperson physician guard "
    "analyst mechanic sheriff"
)
"""Both after the lists of WinoBias (Zhao et al. 2018, arXiv:1804.06876), which split 40 occupations by the share of women
among those employed in the United States. Spelt as here; left out: chief, CEO and constructor; a sewer is called tailor."""
NEUTRAL = split(
    "photographer musician journalist biologist translator bartender artist chemist guide gardener archivist potter "
    "interpreter historian painter astronomer surveyor ranger"
)
"""On neither list, chosen here as occupations of no strong stereotype."""
OTHERS = split("juggler beekeeper lighthouse-keeper clockmaker magician puppeteer glassblower falconer acrobat poet")
"""Of the other person in a passage."""

STREETS = split("Arthur Victoria Albert Helen George Alice Henry Clara Martin Julia")
SHIPS = split("Anna Maria Leo Victor Diana Oscar Emma Hugo")
PUBS = split("Carpenter Baker Farmer Tailor Gardener Sheriff Mechanic Librarian Cook Guard")

OPEN_NOW = phrased("""
    {n} has been {a} {job} for (eleven|four|twenty|nearly thirty) years.
    In our street everybody knows {n}, the {job}.
    The new {job} is called {n}, and {he} starts (on Monday|next week|in May).
    My {own_sib} {n} is {a} {job}, and {he} likes it more than {he} admits.
    According to the list on the door, {n} is the {job} on duty tonight.
    "Ask for {n}," they tell every visitor, "the {job} with the (red bicycle|loud laugh|green door)."
    {n} works as {a} {job}, as {his} {parent} did before {him}.
    There is only one {job} (on the island|in the valley|in this village), and that is {n}.
    Every (morning|evening) at six, {n}, who is {a} {job}, crosses the bridge on foot.
    Of all the people in the building, {n} the {job} is the only one who (sings|never complains|owns a ladder).
""")
MIDDLE_NOW = phrased("""
    The day begins (early|late), with (strong coffee|black tea|cold milk) and the (radio|newspaper).
    {He} is (quick with numbers|good with keys) and (slow with compliments|bad with names|hopeless with machines).
    Most people notice the {job} only when something has gone wrong.
    Over {his} kitchen table hangs a drawing by {his} {kid}.
    "It is work like any other," {he} says, "only with (better stories|more stairs|less sleep)."
    The bus to {street} Street is always late, so nobody hurries.
    From the window you can see the old ferry, the {ship}, which has not moved since (the flood|last autumn|the war).
    Lunch is (soup|salad|rice), usually, and (a roll|an apple|a pie) from the shop (under the stairs|across the road).
    The (pay is fair|pay is modest|rooms are warm) and the (hours are long|coffee is weak|days go by quickly).
    On (Fridays|Saturdays|paydays) half of the town ends up in the {pub}'s Arms, where the music is too loud.
    {His} {spouse} thinks that one (evening|week|Sunday) without (a telephone|visitors|paper) would be a fine thing.
    There is a queue outside by (eight|nine|ten), and it does not get shorter before noon.
    New people (learn fast|stay for years|laugh a lot) here, or they leave.
    {He} keeps a list of everything that (could be done better|was lost and found|made the day worth it).
    Some (weeks|months) nothing happens at all, and then everything happens (on a Tuesday|before lunch|in one night).
    A (notice|sign|poster) by the (entrance|lift|stairs) asks for (patience|silence|clean shoes) in three languages.
    {His} {kid} wants to do something quite different one day.
    In (winter|February|cold weeks) the (heating|hot water|lift) fails about (once|twice) a week.
    Visitors bring (flowers|questions|biscuits), complaints and, once, (a live goose|a cello|their own chairs).
    The best part, {he} finds, is the quiet hour (after closing|before sunrise|at noon).
""")
MEET_NOW = phrased("""
    Two floors below lives {m}, {ma} {mjob}, who cannot keep {mhis} keys in one place.
    Twice a week {m}, {ma} {mjob} from the next town, comes by with {mhis} dog.
    {m}, {ma} {mjob}, thinks that everyone in the (house|street) (works too much|eats too little), {mhimself} included.
    On (Sundays|rainy days) there is (chess|table tennis) with {m}, {ma} {mjob}; {mhe} wins, but {mhe} never boasts about it.
    The loudest voice in the corridor belongs to {m}, who used to be {ma} {mjob} until {mhis} back gave out.
    {m}, once {ma} {mjob}, (sells tickets|raises bees) now and tells everybody that {mhe} has never been happier.
""")
LONG_NOW = phrased("""
    At seven the {job} locks up, puts on {?his} coat and walks home (along the canal|through the market|under the bare trees).
    When the telephone rings, the {job} sighs, for {?he} already knows who it is.
    Nobody has ever seen the {job} without {?his} old (green bag|blue scarf|tin box).
    The town would like to give the {job} a medal, but {?he} only laughs at the idea.
    At the end of the month the {job} sits down, takes off {?his} glasses and (counts the hours|writes the bills).
    If you meet the {job} on the stairs, ask {?him} about the (night of the storm|missing piano|summer of the strike).
    The {job} hums while {?he} works, and always (the same song|out of tune|very softly).
    Before going to bed the {job} writes (one line|three words) in {?his} diary, never more.
""")
OPEN_THEN = phrased("""
    When {n} was (six|nine|twelve), {he} already knew that {he} would be {a} {job} one day.
    I met {n} (on a night train|at a wedding|in a queue for bread), long before {he} found work as {a} {job}.
    Nobody was surprised when {n} became {a} {job}, least of all {his} {parent}.
    It was in (March|August|November) that {n}, {a} {job} from the coast, moved into the (flat upstairs|house on the corner).
    The first {job} whom our town ever had was called {n}.
    The letter was addressed to {n}, the {job}, and (it had been opened|it was wet|it bore no stamp).
    {n} had wanted to sail round the world; instead {he} became {a} {job} in a town without a river.
    For (thirty|seventeen|twelve) years {n} was the {job} here, and then, one Monday, {he} was not.
    "You must be the new {job}," said the child at the gate, and {n} nodded.
    The photograph in the newspaper showed {n}, the {job}, with {his} {kid} on one arm.
""")
MIDDLE_THEN = phrased("""
    The training took {him} (three|two|five) years and most of {his} savings.
    In those days the work was done (by candlelight|by hand|at night), or not at all.
    {He} learned quickly, asked little and slept badly.
    {His} {parent} wrote every week and always enclosed a (stamp|recipe|pressed flower).
    There was a strike that (summer|winter|spring), and the trams stood still on {street} Street.
    It rained so hard that the ferry, the {ship}, stayed in the harbour for (nine|four|eleven) days.
    Some people trusted the {job} at once, and others took a year.
    For lunch everybody went to the {pub}'s Arms, which had only one (dish|table|window).
    {He} broke {his} wrist in the second winter and was (bored|cheerful again|restless) within a day.
    Prices (rose|fell), the (bakery|cinema|school) closed, and a (circus|fair|new mayor) came and went.
    The {job} made one serious mistake and told everyone about it.
    Nothing in the handbook had mentioned the (mice|noise|stairs).
    {His} {sib} came to stay for a week and remained until autumn.
    The office smelled of (floor polish|cold coffee|fresh paint) and (wet umbrellas|old paper|oranges).
    {He} married late, and {his} {spouse} (knew more jokes|told more stories) than the whole (town|valley) together.
    Nobody could say when the (clock over the door|lift|fountain in the yard) had stopped.
    The nights were short, and there was always one more (form to fill in|bill to pay|bucket to carry).
    A bridge was built, and suddenly the market was only (ten|five) minutes away.
    Every spring somebody painted the (fence|gate|bench) a different colour.
""")
MEET_THEN = phrased("""
    Then {m}, {ma} {mjob}, rented the room next door and brought {mhis} (piano|parrot|seven clocks).
    {m}, who was {ma} {mjob}, borrowed a (ladder|saw|suitcase) that {mhe} never gave back.
    There were long arguments with {m}, {ma} {mjob}, about things that mattered to {mhim} alone.
    The only person awake at that hour was {m}, {ma} {mjob}, and {mhe} did not like to talk.
    At the market stood {m}, {ma} {mjob} without work, selling {mhis} books one by one.
    {m} had been {ma} {mjob} in another country, as {mhe} told anyone who would listen.
""")
LONG_THEN = phrased("""
    On the last evening the {job} (wiped the table|paid the bill|fed the cat), took {?his} hat and switched off the light.
    When the answer came at last, the {job} read it twice before {?he} put it away.
    In the end the {job} said nothing, because {?he} (had promised to be quiet|knew better).
    Somebody shouted from the street, but the {job} had already closed {?his} window.
    Years later a stranger recognised the {job} (at a station|in a museum|on a beach) and thanked {?him} for everything.
    So the {job} stayed, and by the next spring {?he} had forgotten why anyone would leave.
    Only then did the {job} notice that {?his} hands were shaking.
    The {job} was offered a better (post|salary|flat) in the capital, but {?he} refused.
""")
STORIES = ((OPEN_NOW, MIDDLE_NOW, MEET_NOW, LONG_NOW), (OPEN_THEN, MIDDLE_THEN, MEET_THEN, LONG_THEN))
