"""Children's stories: who they are about, and plots told step by step.

``{n}`` is the hero's name in full, ``{f}`` or ``{F}`` the first name, ``{k}`` what kind of creature, and ``{s}``, ``{o}``,
``{p}``, ``{r}`` are the hero's pronouns (``{S}``, ``{P}``: raised);
``{t} {m}`` is the helper's title and name, ``{ma} {mkind}`` what kind of creature that is; ``{thing}`` is what the plot
is about and ``{place}`` where. A ``?`` asks for what stands in the slot.
"""

from kanary.text.labelled.templates import Sentence, sentence


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _sentences(text: str) -> tuple[Sentence, ...]:
    """One for every line that is not empty."""
    return tuple(sentence(row.strip()) for row in text.splitlines() if row.strip())


GIRLS = _words(
    "Tilly Rosie Pip Mabel Dot Poppy Hazel Wanda Bella Daisy Fern Goldie Ivy Juno Lottie Minnie Nell Olive Penny Tansy"
)
BOYS = _words(
    "Bruno Toby Jasper Monty Percy Rufus Otto Barnaby Fergus Gus Hector Ned Ollie Quentin Rollo Stanley Theo "
    "Wilbur Ziggy Alfie"
)
LAST = _words(
    "Thistle Bramble Button Pepper Nutmeg Pebble Acorn Puddle Whisker Clover Crumb Marble Lantern Feather "
    "Cobble Mitten Bumble Willow Tumble Marrow Pickle Velvet Barley Copper Dapple Fiddle Ginger Juniper "
    "Kettle Ladle"
)
KINDS = _words("hedgehog mouse rabbit squirrel mole badger duckling kitten puppy beaver hamster fox bear frog lamb")
CRAFTS = _words("gardener baker miller painter sailor clockmaker beekeeper shepherd tailor potter weaver astronomer")
"""Helpers who are no animals."""
HELPER_KINDS = _words("owl tortoise goose heron toad crow stork donkey goat hare raccoon walrus pelican ram")
TITLES = (
    ("Captain", "Doctor", "Professor", "Grandmother", "Lady", "Mrs", "Aunt", "Queen"),
    ("Captain", "Doctor", "Professor", "Grandfather", "Sir", "Mr", "Uncle", "King"),
)
HELPER_NAMES = (
    _words("Agatha Cordelia Euphemia Griselda Henrietta Josephine Leonora Matilda Octavia Philippa Seraphina Winifred"),
    _words("Ambrose Benedict Cornelius Dominic Ferdinand Gilbert Horatio Ignatius Leopold Montague Octavius Reginald"),
)
PLACES = (
    "under the old oak",
    "beside a slow green river",
    "at the edge of the moor",
    "in a crooked house on a hill",
    "behind the last windmill",
    "on an island no bigger than a garden",
    "in the roots of a beech",
    "near the harbour wall",
    "in a valley full of plum trees",
    "next to the village pump",
)

OPENINGS = _sentences("""
Once upon a time there lived {place} a {k} named {n}, and {s} was never long at home.
{^place} lived a small {k} called {n}, with {p} three spoons and one blue plate.
A {k} by the name of {n} had made {r} a home {place}.
There was once a {k}, {n} by name, who lived {place} and whistled all {p} songs backwards.
This is the story of {n}, a {k} who lived {place} and could never sit still.
If you had lived {place} in those days, you would have known a {k} in a patched coat: {n}.
"Good morning, world," said {n} every day, for {s} was a polite {k}. {P} home was {place}.
Some live in palaces. {n}, a {k} of good family, lived {place}, and liked it there.
Far from here, {place}, a young {k} was hanging up {p} washing. {P} name was {n}.
Not so long ago a {k} moved in {place}. It was {n}, with {p} whole household in one barrow.
Have you heard of {n}? {S} was a {k} and lived {place}, where {s} kept a stall.
Nobody {place} was as curious as {n}, the {k} with the patched coat, and {s} knew it.
""")

HELPERS = _sentences("""
Next door lived {t} {new}, {ma} {mkind}, who knew a little about everything.
{P} nearest neighbour was {t} {new}, {ma} {mkind} with one green eye.
On the other side of the hedge stood the cottage of {t} {new}, {ma} {mkind} of great age.
The only other soul for miles was {t} {new}, {ma} {mkind} who collected umbrellas.
Up the lane, in a house full of clocks, lived {t} {new}, {ma} {mkind} with very good manners.
There was one neighbour, {ma} {mkind}: {t} {new}, as people said with respect.
For advice one went to {t} {new}, {ma} {mkind}, who read the newspaper upside down.
{P} best friend in all the world was {t} {new}, {ma} {mkind} in a straw hat.
Twice a week {t} {new}, {ma} {mkind} from over the bridge, came to play draughts.
""")

Plot = tuple[tuple[Sentence, ...], ...]
"""Steps, each with several ways to tell it."""


def plot(text: str) -> Plot:
    """Steps are separated by empty lines."""
    return tuple(_sentences(step) for step in text.strip().split("\n\n"))


def second(text: str) -> tuple[Plot, Plot]:
    """The second half of a plot, with the helper's name after a title, and without a name."""
    return plot(text.replace("{whom}", "{t} {?m}")), plot(text.replace("{whom}", "the {mkind}"))


PLOTS: tuple[tuple[tuple[str, ...], Plot, tuple[Plot, Plot]], ...] = (
    # things, before the feeling, after it (with names and without)
    (
        ("silver bell", "red kite", "brass key", "wooden flute", "woollen scarf", "button box", "toy boat", "spyglass"),
        plot("""
One morning the {thing} was gone from its hook.
On the first day of autumn {f} could not find the {thing} anywhere.
It was on a Tuesday that the {thing} disappeared.

{S} looked under the bed, behind the stove and inside {p} boots.
{S} turned out every drawer and shook out {?p} pillow.
{S} searched the shed, the well and the pockets of {?p} winter coat.
"It must be somewhere," {s} told {?r}, and crawled below the table.
"""),
        second("""
Then a knock was heard, and there stood {whom}.
Towards noon somebody came up the path. It was {whom}.

"What has been lost can be found," said {whom}. "Let us think where you had it last."
"Did you look where the sun goes at noon?" asked {whom}, and pointed up with a stick.

So they climbed up to the loft, and there, in a nest of straw, lay the {thing}.
Together they followed a trail of crumbs to the rain barrel, and behind it lay the {thing}.
They looked up, and the {thing} was hanging in the apple tree, where the wind had left it.

From then on {f} kept the {thing} on a string round {?p} neck.
{f} hung the {thing} back in its place and wiped {?p} nose.
And {f} could hardly believe {?p} eyes.
"""),
    ),
    (
        (
            "plum cake",
            "pumpkin pie",
            "pot of honey soup",
            "tower of pancakes",
            "walnut loaf",
            "plum tart",
            "pear crumble",
        ),
        plot("""
The harvest supper was only a day away, and {f} had promised to bring a {thing}.
{f} wanted to bake a {thing} for the fair, the largest ever seen.
Everybody was to bring something to the midsummer feast, and {f} had thought of a {thing}.

{S} rolled up {?p} sleeves, lit the oven and measured out the flour.
{S} tied on {?p} apron and broke six eggs into a bowl.
{S} stirred and stirred until {?p} arms ached.

But when the oven door was opened, the {thing} was as flat as a hat.
But a gust came down the chimney, and the {thing} was full of soot.
But the sugar jar was empty, and the dough had already begun to run off the table.
"""),
        second("""
Through the window came the voice of {whom}. "May I come in? I smell something."
As luck would have it, {whom} was just passing with a basket of berries.

"Nothing is spoilt as long as there is cream," said {whom}, and put on a second apron.
"We shall simply give it another name," said {whom}. "I have seen worse at royal tables."

They cut it up, filled it with berries and piled it high again.
They mixed in nuts and raisins and put the whole thing back on the fire.

At the table every crumb of the {thing} was eaten, and {f} made {?p} deepest bow.
There was no {thing} left for the morning, and {f} scraped out the bowl with {?p} finger.
"""),
    ),
    (
        ("raft", "sledge", "hot-air balloon", "little cart", "rowing boat", "flying machine"),
        plot("""
All winter long {f} had been building a {thing} out of planks, rope and an old bathtub.
In {p} yard {f} had put together a {thing}, and now at last it was ready.
There was to be a great race, and {f} had painted {p} {thing} yellow from end to end.

{S} put on {?p} goggles, counted to three and let go.
{S} waved {?p} handkerchief, and off it went.
"Here I go," {s} said to {?r}, and loosened the rope.

It went well as far as the bend, where the {thing} struck a root and lost a plank.
But soon fog came up, and nobody could have said where the {thing} was heading.
Halfway there was a crack, and the {thing} began to turn in circles.
"""),
        second("""
Out of the mist came a lantern, and behind the lantern came {whom}.
"Hold on," somebody called. It was {whom}, with a long rope.

"Throw me the end," cried {whom}, "and pull when I say pull!"
"I once sailed round the world in a soup bowl," said {whom}, and took the helm.

They pulled together, and with a jerk the {thing} came free.
Side by side they steered the {thing} back by the light of the stars.

At home {f} dried {?p} socks by the stove and drew the plan of a better {thing}.
That night {f} slept with {?p} goggles on.
"""),
    ),
    (
        ("song", "poem", "somersault", "magic trick", "drum solo", "dance with ribbons"),
        plot("""
There was to be a show in the barn, and {f} had signed up with a {thing}.
For weeks {f} had been practising a {thing} in front of the mirror.
The whole village was to gather on the green, and {f} was to open the evening with a {thing}.

When the curtain went up, {s} forgot everything and stared at {?p} feet.
{S} stepped forward, opened {?p} mouth, and not a sound came out.
{S} had hardly begun when somebody giggled, and {s} hid behind {?p} hat.
"""),
        second("""
In the third row rose {whom}, and the hall fell silent.
From the side of the stage whispered {whom}: "Look at me, and at nobody else."

"Begin again, a little slower," said {whom}. "We have all evening."
"When I was young I fell off this very stage," said {whom}, and that made everyone laugh.

And so the {thing} began once more, and this time it went through to the end.
One, two, three: out came the {thing}, and it was better than in front of the mirror.

There was clapping until the lamps shook, and {f} bowed so deeply that {s} lost {?p} balance.
Afterwards {f} got a paper crown, which {s} wore on {?p} head for a week.
"""),
    ),
    (
        ("star", "snowflake", "moonbeam", "rainbow", "firefly"),
        plot("""
One evening {f} made up {?p} mind to catch a {thing} and keep it in a jar.
"If only I had a {thing} of my own," {f} said to {?r} one night.
{f} had read in a book that whoever catches a {thing} may ask for one wish.

{S} took a net, a ladder and {?p} warmest gloves, and walked out past the last house.
{S} packed bread and cheese into {?p} knapsack and set out on tiptoe.

Deep in the woods the path came to an end, and something hooted, or perhaps it was the wind.
Far out on the meadow the lamp went out, and the dark was as thick as porridge.
"""),
        second("""
Between two trunks sat {whom}, wrapped in a blanket and wide awake.
A match was struck, and in its light stood {whom}.

"A {thing} in a jar is only a jar," said {whom}. "Sit here with me and look up."
"Some things are caught with the eyes," said {whom}, and made room on the log.

They sat without a word until the {thing} came, and it was enough to see it.
And there, above the branches, was the {thing}, brighter than in any book.

{f} left the jar open on the sill and closed {?p} eyes.
On the way home {f} held {?p} breath at every bend, so as not to wake the woods.
"""),
    ),
    (
        ("letter", "parcel", "postcard", "birthday card", "treasure map"),
        plot("""
A {thing} lay on the doormat, but it was addressed to the wrong house.
One windy day a {thing} blew in through the window and landed in the butter.
{f} found a {thing} stuck in the hedge, wet with dew.

{S} put {?p} spectacles on and read the name on the back.
{S} scratched {?p} chin and wondered to whom it belonged.

{S} carried it from door to door, but at every door they shook their heads.
The ink had run, and not even the postman could read it.
"""),
        second("""
Only one house was left, and there lived {whom}.
On the bench in front of the bakery sat {whom}, waiting for the mail.

"I have been expecting that for eleven years," said {whom}, and put the kettle on.
"Let me see," said {whom}. "Why, that is from my own sister!"

They opened the {thing} together, and a pressed flower fell out of it.
The {thing} was unfolded on the table, and they read it three times over.

In thanks there was gingerbread, and {f} filled both of {?p} cheeks.
Ever after {f} looked twice at whatever came through {?p} door.
"""),
    ),
)

FEAR = _sentences("""
{F}'s knees knocked together.
A cold shiver ran down {F}'s back.
{S} was so frightened that {s} could not move.
{S} trembled from head to toe.
How fast {p} heart was beating, and how dry {p} throat was with fright!
Never before had {F} been so scared.
{F} wanted to crawl under a blanket and stay there, out of sheer fright.
""")
SADNESS = _sentences("""
Two big tears rolled down {F}'s cheeks.
{F} sat down on a stone and wept.
{F}'s heart was as heavy as lead.
{S} had never felt so miserable.
Something in {p} throat grew thick, and then the tears came.
{S} sobbed into {p} sleeve.
{F} was too sad even to hum.
""")
ANGER = _sentences("""
{F} stamped and shook both fists.
{F} was furious.
{F} grew as red as a beetroot and kicked at the nearest stone.
{S} boiled with rage.
{S} was so cross that {s} could have bitten a chair in two.
{S} snorted and ground {p} teeth.
"Oh, bother and blast it all!" {s} shouted, and hit the ground with both fists.
""")
CALM = _sentences("""
{F} thought about it for a while.
{S} sat down and ate a biscuit.
{F} counted to twenty, as {s} always did.
{S} rubbed one ear and looked up at the clouds.
{F} made a note of it in a little book.
{S} waited to see what would happen next.
A minute passed, and then another.
""")
JOY = _sentences("""
{F} jumped up and down and threw a hat into the air.
{F} was the happiest {k} for miles around.
{S} beamed from ear to ear.
{S} danced in circles until the buttons flew off {p} coat.
{F}'s heart leapt with delight.
{S} hugged everyone in sight and laughed out loud.
""")
QUIET = _sentences("""
{F} swept the floor and put out the lamp.
{S} drank a cup of milk and went to bed.
Then {s} locked the gate, as on every evening.
{S} wrote down the whole story in a notebook.
{F} wound up the clock and set it on the shelf.
""")

NAMED = _sentences("""
When the night watchman called, "Who goes there?", the answer came at once: "It is only me, {first} {?last}!"
On the wall it said in chalk: {first} {?last} was here.
"Make way for {first} {?last}!" cried the others.
In the book of guests {s} signed with {p} full name, {first} {?last}.
"Your name, please?" asked the mayor. "{first} {?last}," {s} said.
The children still tell each other the tale of {first} {?last}.
There is a street there now that is called after {first} {?last}.
""")
UNNAMED = _sentences("""
When the night watchman called, "Who goes there?", the answer came at once: "It is only me!"
On the wall it said in chalk: No parking of wheelbarrows.
"Make way!" cried the others.
In the book of guests {s} drew a small picture of a snail.
"Your ticket, please?" asked the mayor, and it was shown to him.
The children still tell each other the tale, each in a new way.
There is a street there now that leads to the very spot.
""")
SHIPS = (
    "Merry Duck",
    "Silver Herring",
    "Blue Teapot",
    "Brave Onion",
    "Lucky Barrel",
    "Sleepy Whale",
    "Golden Biscuit",
    "Purple Heron",
    "Copper Kettle",
    "Crooked Chimney",
    "Happy Snail",
    "Windy Corner",
)
SIGNS = _sentences("""
Over {p} door hung a board that read "{ship}", for that was what {s} called the place.
{S} had given {p} house a name, "{ship}", and had painted it on the gate.
A wooden sign said "{ship}", which was the name of {p} house.
""")
AT_SIGNS = _sentences("""
The lamps of the "{ship1} {?ship2}{?close} were still burning when the moon came up.
Back at the "{ship1} {?ship2}{?close} there was a fire in the stove.
In the kitchen of the "{ship1} {?ship2}{?close} the kettle sang.
That night all was peace in the "{ship1} {?ship2}{?close} and in the houses round about.
""")
AT_HOME = _sentences("""
The lamps of the house were still burning when the moon came up.
Back at the house there was a fire in the stove.
In the kitchen of the house the kettle sang.
That night all was peace in the house and in the houses round about.
""")
MORALS = _sentences("""
And if the roof has not fallen in, they are sitting there still.
That was all for that day, and quite enough.
Whoever does not believe it may go there and ask.
Then the stars came out, one after the other.
By then it was long past bedtime.
The moon looked in, and the mice turned over in their sleep.
Since then, nobody in those parts has laughed at patched coats.
And what came of it the next morning is another tale.
""")
