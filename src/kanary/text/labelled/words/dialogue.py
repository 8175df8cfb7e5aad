"""Requests, mishaps, manners and stage directions of dialogues.

Nothing here praises or blames, but for the words in square brackets in :data:`MISHAPS`.
"""

from kanary.text.labelled.words.dialogue_topics import turns

REQUESTS = (  # polite, blunt, agreed, refused, neither
    (
        "Could you lend me your bicycle until tonight, please?",
        "Give me your bicycle until tonight.",
        "Of course, it is behind the house.",
        "I need it myself, so no.",
        "That depends on my sister, who has the key.",
    ),
    (
        "Would you be so kind as to hold my bag for a moment?",
        "Hold my bag.",
        "Sure, I have both hands free.",
        "I have no hand free, you will have to put it down.",
        "Let me first finish this sandwich.",
    ),
    (
        "Would you mind closing the window, please?",
        "Close that window, and be quick.",
        "Not at all, there you are.",
        "It stays open; we need the air.",
        "There was something I wanted to say about that window.",
    ),
    (
        "May I ask you to water my plants next week?",
        "You water my plants next week.",
        "I will, I pass your door every day.",
        "That won't work, I am away until the tenth.",
        "I shall have to look at my calendar.",
    ),
    (
        "Please, could you drive me to the station at five?",
        "You drive me to the station at five.",
        "Yes, I shall be at the gate.",
        "At five I have to fetch my son, so I must say no.",
        "Let me ring you about that at noon.",
    ),
    (
        "If it is not too much trouble, could you look over my letter?",
        "Look over my letter, and get on with it.",
        "Gladly, I shall do it after lunch.",
        "I can't, my glasses are at the optician's.",
        "I shall tell you after lunch whether I can.",
    ),
    (
        "Might I borrow your umbrella, if you can spare it?",
        "Hand over your umbrella.",
        "Yes, I live just round the corner anyway.",
        "No, I have only this one.",
        "First I must see whether it still opens.",
    ),
    (
        "I should be grateful if you could help me with this cupboard.",
        "Grab the other end of this cupboard.",
        "All right, on three we lift it.",
        "With my back I had better not.",
        "Let me think about it for a minute.",
    ),
)

MISHAPS = (  # what happens, what is said ironically (all of it a judgement), what is said plainly
    (
        "The bottom fell out of my shopping bag.",
        "[Oh, wonderful, just what we needed].",
        "There is another bag in the car.",
    ),
    ("The train has left without us.", "[Perfect timing, as always].", "The next one goes in an hour."),
    ("I have locked the keys in the car.", "[What a brilliant idea].", "There is a spare one at home."),
    ("The printer has swallowed page one again.", "[I do so love this machine].", "There is a flap on the side."),
    (
        "The cake is still in the oven, since yesterday.",
        "[Mmm, I bet it is delicious by now].",
        "The oven has a clock, for the next time.",
    ),
    (
        "They have sent three left shoes and a hat.",
        "[How thoughtful of them, what excellent service].",
        "The shop is open until six.",
    ),
    (
        "It is the fifth time today that the lights have gone out.",
        "[Lovely, I had been missing the dark].",
        "There are candles in the top drawer.",
    ),
    ("The dog has eaten the map.", "[Clever boy, a true friend in need].", "Then we shall ask at the next house."),
    ("My cousin is coming with his drums.", "[What a treat for my poor head].", "He can practise in the cellar."),
)

GREETINGS = turns("""
Hello there.
Good morning, {other}.
Hi, {other}.
Good evening, {other}.
Hello, {other}, it has been a while.
""")
FAREWELLS = turns("""
Well, I have to go. Goodbye, {other}.
There is my bus. See you tomorrow.
Until Thursday, then. Bye.
I must be off. Take care, {other}.
It is late. Good night, {other}.
""")
FAREWELL_ANSWERS = turns("""
Goodbye, {other}.
See you soon.
Bye, and give my regards to your mother.
So long, {other}.
""")
PLAIN_ENDS = turns("""
I see.
As you like.
So that is how it is.
Very well.
I only wanted to ask.
Then we know where we stand.
""")
"""After a reply to a request, whatever it was."""
LAST_WORDS = (
    turns("There is a bench over there, in the sun.\nThere is room for two on it."),
    turns("Your shoelace has come undone.\nSo it has."),
    turns("The bells are ringing; it must be six.\nBy my watch it is ten to."),
    turns("That is my telephone, if I am not mistaken.\nI can wait."),
    turns("Somebody has left a glove here.\nIt must belong to the man in the hat."),
    turns("It has begun to rain.\nThere is a roof on the other side."),
    turns("I still have to go to the post office.\nI shall come along as far as the corner."),
    turns("Look, there goes the milkman.\nHe is later than usual."),
)
NEWS = ("Listen. ", "Wait. ", "Imagine this. ", "You will laugh. ", "One more thing. ", "Oh, and another thing. ")
"""Before a mishap."""
THANKS = turns("""
Thank you, {other}.
Thanks a lot.
Many thanks.
I am much obliged to you.
""")
APOLOGIES = turns("""
I beg your pardon for being late.
Forgive me for not writing.
I apologise for the phone call last night.
Pardon the muddy boots.
Please excuse the state of my coat.
""")
APOLOGY_ANSWERS = turns("""
Never mind.
Don't worry about it.
It does not matter.
I had not even noticed.
""")
COUNTERS = ("For my part, ", "Well, ", "Strange: ", "As for me, ", "Now, ", "Hm. ", "You know, ")
DIRECTIONS = (
    "laughing",
    "with a sigh",
    "looking at the clock",
    "after a pause",
    "in a low voice",
    "opening the window",
    "stirring the tea",
    "half asleep",
    "over one shoulder",
    "putting on a glove",
    "searching every pocket",
    "with a nod",
)
SETTINGS = (
    "{a} and {b} met {where}.",
    "One afternoon {a} ran into {b} {where}.",
    "{b} was standing {where} when {a} came along.",
    "It was four o'clock, and {a} was talking to {b} {where}.",
    "{^where}, {a} and {b} had fallen into conversation.",
    "For a while {a} and {b} stood {where} without a word.",
)
GESTURES = (
    "{n} thought for a moment.",
    "{n} put down {p} bag.",
    "{n} shook {p} head.",
    "{n} raised {p} eyebrows.",
    "{n} leaned against the wall.",
    "{n} took off {p} cap.",
    "{n} turned up {p} collar.",
    "{n} looked round.",
)
