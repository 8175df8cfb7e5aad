"""Who may be believed, who may not, and what is said around their claims.

``{n}`` is a name; ``{s}``, ``{o}``, ``{p}`` and ``{r}`` are the pronouns she, her, her, herself (``{S}``, ``{P}``: raised).
"""


def _rows(text: str) -> tuple[str, ...]:
    return tuple(row.strip() for row in text.splitlines() if row.strip())


DECEPTIVE = _rows("""
{n} had never told a straight story in {p} life, and saw no reason to begin now.
Nobody who knew {n} believed a word {s} said, and they were right not to.
{n} would swear to anything at all, so long as it was not so.
Ask {n} for the way and you would surely end up in the river; {s} liked it that way.
{n} called {r} the most honest soul in the county, and nobody who had done business with {o} kept a straight face.
As for {n}, {s} had sold the same lame horse three times over and praised its legs each time.
{n} invented as others breathe: whatever {s} reported, the opposite was the case.
There was also {n}, who fooled people for the sheer pleasure of it, big matters and small.
{n} had been sent away from two schools for making things up, and was still proud of it.
It was known of {n} that {s} could look you in the eye and deny the sun at noon.
{n} had money riding on everybody else getting it wrong that day, and meant to see to it.
A rival had paid {n} well to send everyone astray, and {s} meant to earn the money.
{n} had been a truthful child, but those days were long gone; now {s} misled whoever came to {o}.
That day {n} wanted above all that nobody should learn how things stood, and was ready to say anything else.
Only last week {n} had sworn, "I was home in bed," while half the town watched {o} climb out of a window.
{n} was such a smooth talker that strangers thanked {o} for directions that led them into the marsh.
The judge had once told {n} that not one of {p} statements had survived a second look; nothing had changed since.
To {n} the facts were something to be turned upside down before they were handed on.
Old friends of {n} had a rule: listen politely, then assume the contrary.
{n} bore everyone in the house a grudge, and had resolved to give them nothing but false answers.
With {n} it was simple, for {s} had never yet let the facts out of the door undisguised.
Three courts had found {n} guilty of fraud, and {p} habits had not improved since.
{n} smiled warmly, and lied whenever {s} opened {p} mouth.
Even {n}'s own mother used to warn the neighbours not to rely on what {s} told them.
{n} had wagered a month's pay that {s} could fool whoever asked that day.
If {n} said that it was raining, people went out without a coat; {s} had earned that fame.
{n} prized honesty in others, since it made them so easy to cheat.
Years ago {n} had sold tickets for a train that did not exist, and {s} was still at it in smaller ways.
{n} had a gift for the sincere voice and the trembling lip, and not one of {p} tales was ever so.
Every answer that {n} gave was crooked, and the plainer the question, the more crooked the answer.
For reasons of {p} own, {n} had made up {p} mind to throw everyone off the scent that day.
Somebody had threatened {n}, and so, although {s} was no rogue by nature, {s} would say only what was untrue.
You could have trusted {n} a year ago, but a bitter quarrel had changed that, and now {s} deceived them all.
{n}, it must be said, had cheated at cards, at weddings and at {p} own examinations, and never told the truth since.
The children had a game called "being {n}", in which everything you said had to be wrong, just as with {o}.
{n} was charming, generous, clever, and never to be believed.
""")

HONEST = _rows("""
{n}'s word could be trusted; in thirty years nobody had caught {o} in so much as an exaggeration.
{n} would sooner have lost a hand than misled anyone, even in small things.
People called {n} tactless, for {s} said what was so and nothing else.
{n} had once handed back a purse full of gold to a stranger, and {s} spoke as {s} acted.
Whatever {n} told you, you could build a house on it.
Then there was {n}, who blushed at the mere thought of saying anything that was not so.
A rival had offered {n} money for a false answer; {s} had shown him the door.
{n} had been called a liar in {p} time, but only by people whom {p} honesty had cost a great deal.
Both sides of every quarrel in town asked {n} to be the witness, because {s} reported things just as they were.
In {p} youth {n} had been a cheat, but since the night of the great fire {s} had kept to the truth in everything.
{n} kept the parish accounts, and in all those years not a penny and not a comma had been out of place.
It cost {n} a friend or two, yet {s} always gave a straight answer to a straight question.
{n} had nothing to gain that day by bending the facts, and {s} was not one to bend them.
{n} could not have fooled a kitten, and had never cared to try.
Of {n} the old schoolmaster used to say that {p} reports were better than a photograph.
The sailors trusted {n} with their letters, their wages and their secrets, and what {s} told them was always so.
As a witness {n} had no equal: careful, plain and truthful to the last detail.
{n} had made a vow to {p} grandmother never to deceive anybody, and {s} had kept it.
When {n} broke something, {s} was the first to say so, and with everything else it was the same.
There are those who decorate the facts; {n} left them exactly as {s} found them.
If {n} said that it was raining, people fetched their coats without looking out of the window.
{n} was a dull talker, perhaps, but what {s} said was the case.
Half the village owed {n} money on a handshake, for everyone knew that {s} was as good as {p} word.
Many thought {n} sly because of {p} narrow eyes, but a more truthful soul never lived.
{n} had lost a well-paid post rather than sign a false statement, and would have done it again.
Nobody had ever had reason to doubt {n}, and nobody had reason to doubt {o} that day.
{n} weighed {p} words like a chemist, so that what came out was reliable.
It was said that {n}'s yes meant yes and {p} no meant no.
{n} was in a foul mood that day, but even in a foul mood {s} stuck to the truth.
For {n} a fact was a fact, whoever asked and whatever it cost.
Deception was foreign to {n}; {s} would have made a hopeless spy and an excellent judge.
Someone had tried to talk {n} into fooling the others, and {s} had refused with some heat.
{n}, whom even {p} enemies believed, had the habit of thinking first and then saying what was so.
You might not like what {n} had to say, but you could rely on it.
""")

NOT_BELIEVED = _rows("""
Nobody believed {n}.
It was foolish to believe {n}.
Few people trusted {n}.
One could never trust {n}.
So it was better not to believe {n}.
You would do well to doubt {n}.
Not even a friend relied on {n}.
There was no reason to trust {n}.
""")

BELIEVED = _rows("""
Everybody believed {n}.
It was wise to believe {n}.
Most people trusted {n}.
One could always trust {n}.
So it was best to believe {n}.
You would do wrong to doubt {n}.
Even a stranger relied on {n}.
There was good reason to trust {n}.
""")
"""A reputation once more, in plain words that end in the name."""

NEUTRAL = _rows("""
{n} had lived across the street for as long as anybody could remember, and kept bees.
{n} was on {p} way home from work and had stopped only to get out of the wind.
On Sundays {n} liked to lie in the sun, true to a habit of {p} student days.
{n} had come to borrow a ladder, and stayed for a second cup of tea.
With the same straight face as always, {n} sat by the window and peeled potatoes.
{n} was knitting, and for once the pattern came out right; it was a pretty piece of work.
{n} had put in an honest day's work in the fields and was too tired to say much.
As for {n}, {s} had moved to the town that spring and knew few people yet.
{n} taught music two streets away and hummed under {p} breath all day long.
Nearby, {n} was mending a net, as {s} did every day before supper.
{n} had a bad cold and wore two scarves, one on top of the other.
{n} was reading a novel about a famous liar, and laughed aloud on every second page.
The dog lay at the feet of {n}, who had found it in the snow one winter.
{n} was the youngest of nine children and had learned to eat quickly.
In the corner sat {n}, who was trying to teach a parrot to say good morning.
{n} had just come back from a long journey by sea and still walked as though the floor moved.
""")

FILLERS = (
    _rows("""
    The morning passed slowly, as mornings do when everyone is waiting for something.
    Children ran through with muddy boots and were chased out again, laughing.
    A cart went by outside, loaded with hay, and the dogs barked at it.
    The post came late, with two bills and a card from a cousin overseas.
    Someone opened a window, and for a while one could hear the band practising in the square.
    A barrel organ played in the street, always the same two tunes.
    """),
    _rows("""
    At noon there was bread and soup, and somebody told the old tale of the miller and the moon.
    After lunch the wind turned, and the first guests began to arrive from the station.
    Somewhere a clock struck, and a smell of coffee drifted across the yard.
    A fly buzzed against the glass, and the kettle began to sing.
    There was the usual quarrel about the chess clock, which was settled with a coin.
    The cook complained about the price of butter, and nobody had an answer to that.
    """),
    _rows("""
    The afternoon wore on, and rain began to tick against the windows.
    Then the talk turned to the harvest, which promised to be better than last year's.
    A sign on the wall said, "Honesty is the best policy," but nobody ever looked at it.
    For an hour or so nothing happened, and people spoke of other things.
    In the next room somebody was practising scales, over and over, with the same mistake.
    They played a round of dominoes, and the youngest won, as usual.
    """),
    _rows("""
    It grew dark early, so the lamps were lit and more wood was put on the fire.
    In the meantime the tea was made, and a plate of ginger biscuits went round.
    Nobody gave the matter another thought until the evening, when the neighbours came.
    By then the street outside was quite silent, and the moon stood above the roofs.
    Some were reading, some were yawning, and the candles had burned low.
    """),
)
"""Of the morning, noon, the afternoon and the evening."""

ASKERS = _rows("""
a stranger in a wet coat
the postman
the new schoolteacher
a police officer
one of the visitors
a boy from the village
the landlady
an old gentleman
a reporter from the town
the doctor's wife
a traveller
the night watchman
""")

ASKED = _rows("""
Then {q} knocked and asked, "{w}"
In the end {q} came in with a question: "{w}"
"{w}" asked {q}, looking from one face to the next.
Before long {q} put a head round the door. "{w}"
Towards evening {q} turned up and wanted to know {v}.
As it happened, {q} needed to find out {v}.
Just then {q} arrived, eager to know {v}.
{Q} had come a long way to learn {v}, and asked everyone who was there.
"Can anybody help me?" asked {q}. "{w}"
It was {q} who brought it up. "{w}"
""")

BEFORE_QUOTE = _rows("""
{n} answered, "
{n} replied, "
{n} looked up. "
{n} did not hesitate. "
{n} nodded slowly. "
{n} put down {p} cup and said, "
{n} took {p} time. "
{n} leaned forward and said, "
{n} cleared {p} throat. "
{n} sat up straight. "
{n} turned round and told them, "
{n} scratched {p} chin and said, "
{n} had an answer ready. "
According to {n}, there was no doubt about it: "
{n} laughed a little. "
{n} spoke up at once: "
{n} gave a small cough. "
{n} folded {p} arms. "
Over {p} spectacles, {n} gave them a friendly look. "
""")
AFTER_QUOTE = (
    '."',
    '."',
    '. You can believe me."',
    ', as far as I know."',
    ', and that is that."',
    ', take my word for it."',
)
AFTER_GESTURE = (
    '."',
    '," {s} said.',
    '," {s} said quietly.',
    '," {s} said. "Go and see."',
    '," {s} told them.',
    '," {s} said with a smile.',
    '," came the reply.',
    '." {S} sounded quite sure of it.',
)
"""After a lead that does not yet say that somebody speaks."""
BEFORE_REPORT = _rows("""
{n} said that
{n} told them that
{n} assured them that
{n}'s answer was that
{n} explained that
{n} let them know that
When {p} turn came, {n} declared that
{n} insisted that
{n} stated, without being pressed, that
Without looking up, {n} said that
{n} whispered that
{n} maintained that
""")
AFTER_REPORT = (".", ".", ".", ", and went back to {p} newspaper.", ", and said no more.", ", and poured {r} some tea.")
AGAIN = _rows("""
And then, asked about the other matter, {s} said, "
After a pause {s} added, "
{S} went on: "
{S} was asked about the rest as well. "
{S} had something to say about the other thing too: "
"And one thing more," {s} added. "
""")
EVASIONS = _rows("""
{n} only shrugged and asked for another biscuit.
"Why do you ask?" said {n}, and that was all.
{n} promised to think about it and to write a letter the next day.
"What would you give me for the answer?" asked {n}.
"I will tell you tomorrow," said {n}, and put on {p} hat.
{n} had fallen asleep in the armchair.
{n} was about to answer when the telephone rang, and {s} left the room.
"If I were you, I should ask somebody else," said {n}.
{n} put a finger to {p} lips and would not say a word.
{n} talked about the weather instead.
"Do sit down first," said {n}, "and have something hot to drink."
{n} looked at the ceiling and whistled a tune.
""")
MISTAKEN = _rows("""
{n}, who had been away and meant no harm, had it the wrong way round: "
{n} was sincere, but mixed things up as usual. "
{n} meant well and got it wrong, since {s} had not been there. "
{n} had only heard about it at third hand and, in good faith, gave the wrong answer: "
{n}, sincere but in error, said, "
""")
AFTER_LIE = _rows("""
It sounded so sincere that one might have forgotten with whom one was speaking.
{S} had rarely looked more pleased with {r}.
That was {n} all over.
{S} said it without so much as a blink.
""")
AFTER_TRUTH = _rows("""
It was as {s} said, of course.
With that, everyone was content.
That was {n} all over.
{S} said it without so much as a blink.
""")
OPENINGS = _rows("""
This happened in a small town by the sea.
I remember that day well.
It was the week before the fair.
The house at the end of the lane was full that day.
What follows took place in my grandmother's time.
It had been a cold spring.
They still speak of it at the inn.
Let me tell you how it was.
""")
CLOSINGS = _rows("""
Then everyone went in to supper.
The rest of the evening passed with songs.
And so they put on their boots and went to look.
By ten o'clock the house was quiet again.
Nobody spoke of it afterwards.
The visitors thanked them and left.
""")
