"""English sentences for passages that quote another language: meetings with its speakers, and lessons on its words.

In the slots ``{greet}``, ``{thanks}``, ``{bye}``, ``{ask}``, ``{sign}``, ``{saying}`` and ``{food}`` stands a phrase in
the language or its English translation, so every sentence must be right with both.
"""

from kanary.text.labelled.templates import phrased

BEATS = {
    name: phrased(text)
    for name, text in {
        "arrive": """
    {n} had been in {town} for less than (an hour|a day) when {host}, a stranger in a (straw hat|yellow \
    raincoat|long coat), waved from across the street.
    The night train reached {town} (just after six|an hour late|before dawn), and {host} was waiting (under the \
    clock|by the newspaper stand), as promised, for {n}.
    It was (raining|snowing|already hot) in {town} on the (morning|day) {n} finally found the house in the old \
    photograph, and {host} leaned out of an upper window.
    Everyone had told {n} that {town} was best seen on foot, so {he} hired {host} as a guide and left the map \
    at the hotel.
    On {his} third day in {town}, {n} got lost on purpose and was found by {host}, who sold newspapers.
    {n} came to {town} to (repair a clock|tune a piano|paint a door) for {host} and stayed for the whole \
    (summer|winter|year).
    The guesthouse in {town} had only one free room, and {n} took it from {host} without asking the price.
        """,
        "family": """
    {n} grew up next door to {host}, in a street where nobody ever finished a sentence in the language in which \
    it had begun.
    Last (summer|spring|October) {n} went to see {host}, {his} old neighbour, who had moved back to {town}.
    {n}'s grandmother came from {town}, and it was her cousin {host} who answered {n}'s first letter.
    When {n} was small, {host} from {town} rented the room upstairs.
    The wedding brought half of {town} into {n}'s garden, and {host} had even brought (an accordion|a goat|the \
    old flag).
    For a golden wedding the whole family met in {town}, and {n} sat next to {host}, a distant cousin.
        """,
        "work": """
    The new office had people from (nine|five|eleven) countries, and {n} was given the desk beside {host}, who \
    came from {town}.
    {n} drove the number (12|7|41) bus, and {his} first passenger every morning was {host}, a (retired \
    teacher|student of law|baker) from {town}.
    At the hospital where {n} worked at night, the porter {host} was known for {hosthis} singing.
    The restaurant was too small for two cooks, but {n} and {host} had shared its kitchen since (spring|last \
    autumn|the new year).
    A parcel from {town} arrived at the (museum|library|theatre) on (Tuesday|Friday|Saturday), and {n} was \
    asked to open it together with {host}.
        """,
        "greet": """
    "{greet}," said {host}, and (pulled out a chair|put the kettle on|folded the newspaper).
    At the gate stood {host}, arms folded. "{greet}," {hosthe} said at last.
    {n} had practised the words all the way up the hill. "{greet}," {he} said, a little too loudly.
    {host} looked up from the newspaper. "{greet}. You must be {n}."
    A voice behind the door answered, "{greet}," and then the key turned.
    "{greet}," {n} tried, and to {his} surprise {host} answered as if they had known each other for years.
    The parrot by the window got there first: "{greet}!"
        """,
        "sign": """
    Over the entrance somebody had painted the words "{sign}" in (blue|red|white letters).
    A card in the window read "{sign}", and under it lay a (sleeping cat|dead wasp|row of empty bottles).
    On the wall hung a (faded|torn|hand-written) notice that said "{sign}".
    {n} stopped in front of a (brass plate|wooden board|low door). "{sign}," {he} read slowly, following the \
    letters with one finger.
    Someone had chalked "{sign}" on the pavement, and the rain had already taken half of it.
    A tin plate beside the stairs said "{sign}", though the stairs led nowhere.
        """,
        "ask": """
    "{ask}" asked {host}, (pouring something dark into two glasses|without looking up|and waited).
    {host} leaned closer. "{ask}"
    A (boy with a bicycle|woman with two bags|policeman) wanted to know something. "{ask}" It was asked twice, \
    but {n} could only smile.
    "{ask}" {n} wrote on the back of (a receipt|a ticket|an envelope), and pushed it across the counter.
    It was {host} who broke the silence: "{ask}"
        """,
        "food": """
    On the table stood a dish that {host} called "{food}", still warm from (the oven next door|the sun|the morning).
    "{food}," {host} said, pointing at the bowl, and nodded until {n} took some.
    The menu was written by hand, and the only thing {n} could make out was "{food}".
    On the list that {host} had (pinned|taped) to the (door|fridge), the first item was "{food}", (underlined \
    twice|with a small star beside it|in green ink).
    They ate slowly. "{food}," {n} repeated between two bites, so as not to forget the name.
        """,
        "saying": """
    {host}'s mother used to put it differently: "{saying}."
    "{saying}," {host} said, as though that settled the matter.
    There is an old line for such days, and {host} knew it: "{saying}."
    Above the (stove|bed|piano) hung a piece of embroidery with the words "{saying}".
    {n} found the sentence "{saying}" in a (notebook|drawer|coat pocket) years afterwards and could not \
    remember who had said it.
    On the first page, in careful ink, somebody had written "{saying}".
        """,
        "filler": """
    (Nobody was in a hurry|There was time for everything|The clock on the wall had stopped).
    Outside, (the shutters were coming down one after another|somebody was sweeping the steps|a dog barked at \
    the tram).
    A (radio|violin) played somewhere, and a child was being called in to supper.
    {n} liked the (sound|smell|look) of the place more than {he} had expected.
    The lift was broken, so they climbed (four|six) flights of stairs.
    For a (while|minute|long time) (neither of them spoke|they listened to the rain).
    {host} knew every shopkeeper in the street by name, and also what each of them owed.
    The light had turned the colour of (honey|copper|weak tea) by then.
    It took {n} some time to find {his} glasses, which were on {his} head.
    Nothing about the (afternoon|day|visit) had gone according to plan.
        """,
        "talk": """
    They talked about (rents, football and the price of oranges|trains, cousins and the weather|old films and \
    bad knees), half in English and half with their hands.
    {host} speaks {lang} at home and English everywhere else, and dreams, {hosthe} says, in both.
    {n}'s {lang} was good enough for the (market|bus|barber) but not for (the doctor|jokes|the telephone).
    A dictionary of {lang} lay open on the sill, but {n} had given up at the letter that looked like a hook.
    Somebody at the next table was telling a joke in {lang}, and {n} laughed a second too late.
    {host} taught {lang} to half the street, mostly without meaning to.
        """,
        "thanks": """
    "{thanks}," said {n}, and meant it.
    When the bill came it was (a third|half) of what {n} had feared. "{thanks}," {he} said.
    {host} put the parcel down and wiped {hosthis} forehead. "{thanks}," called a voice from the kitchen.
    "{thanks}," {host} murmured, folding the paper away.
    {n} left a note beside the (empty cup|key|lamp), and all it said was "{thanks}".
        """,
        "bye": """
    "{bye}," said {host} at the door, and the lamp on the stairs (went out|flickered).
    From the (platform|quay|pavement) {host} shouted something that might have been "{bye}", but the \
    (wind|noise|crowd) took half of it.
    {n} waved until the corner. "{bye}!" somebody called from a (balcony|passing car|roof).
    "{bye}," {n} answered, and this time nobody corrected {him}.
    The last postcard, years later, had a single line on it: "{bye}."
    It ended as it had begun, with a hand on the gate and a quiet "{bye}".
        """,
        "quiet": """
    {n} still has the key, though the house is gone.
    When {n} tells the story now, {he} leaves out the (rain|dog|second day).
    By then the square was empty, and {n} walked back (along the river|through the park|past the theatre).
    They have written to each other every (month|Christmas|few weeks) since.
    That evening {n} wrote everything down, beginning with the (smell of the stairs|hat|weather).
    The bus was late, as it always is.
        """,
    }.items()
}
MEETINGS = (
    (("arrive", "greet", "sign", "talk", "ask", "filler", "food", "saying", "thanks", "bye"), 4, 6),
    (("family", "saying", "filler", "greet", "food", "talk", "ask", "sign", "quiet"), 3, 5),
    (("work", "greet", "filler", "ask", "saying", "food", "talk", "thanks", "bye"), 3, 6),
    (("arrive", "sign", "filler", "greet", "food", "filler", "thanks", "quiet"), 3, 5),
    (("work", "talk", "ask", "food", "filler", "saying", "thanks", "quiet"), 3, 5),
)
"""Beats of a story in order, of which the first and the last are always told; the least and most of those between."""

LESSON_OPENS = phrased("""
    The {lang} course in the library of {town} begins at (seven|half past six|eight).
    Learning {lang} goes faster with (labels on the furniture|songs|a patient neighbour).
    Here is a short list of {lang} words for anyone who is about to visit {town}.
    My first {lang} teacher believed that nobody needs grammar (before breakfast|at all|on Mondays).
    These notes on {lang} were found in a coat that had been left on (the train|the night bus) to {town}.
    A few {lang} words are enough to get through a day in {town}.
    Today's page of the {lang} workbook is about everyday things.
    How do you remember words in {lang}? One at a time, says the woman at the tourist office in {town}.
""")
LESSON_PAIRS = phrased("""
    The word for {word} is {foreign}.
    If you mean {a_word}, say {foreign}.
    The word {foreign} means {word}, and it is one of the words that everybody learns in the first week.
    Point at {a_word} and you will hear {foreign}.
    On the card with {a_word} it says {foreign}.
    A child who wants to talk about {a_word} will say {foreign}.
    What English calls {a_word} is {foreign}.
    Write {foreign} under the picture of the {word}.
    Nobody in the class could pronounce {foreign} at first, although it is only the word for {word}.
    Then comes {foreign}, which is the word for {word}.
""")
LESSON_REVIEWS = phrased("""
    Now cover the page: {a_word} is {?foreign}.
    And what does {foreign} mean? It means {?word}, of course.
    Once more, the word for {word} is {?foreign}.
    So whenever you read {foreign}, think of the word {?word}, not of anything else.
    In the test, the picture of {a_word} must be labelled {?foreign}.
    The pupils repeat in chorus that {foreign} means {?word}, and somebody yawns.
""")
LESSON_ENDS = phrased("""
    That is enough for (one evening|today|a first lesson).
    (Tomorrow|Next week|On Thursday) there will be (verbs|numbers|colours).
    Read the list aloud (before you go to sleep|on the way home|to a friend).
    The rest can be learned (at the market|by listening|on the bus).
    Mistakes are welcome, silence is not.
    After a month, the words come by themselves.
    Somebody erased the board, and the class went home.
""")
