"""Words and frames of the arithmetic passages. ``n`` and ``m`` are two people, ``x`` a number, ``items`` what is counted."""

from kanary.text.labelled.templates import split

ITEMS = split(
    "eggs apples marbles stamps books coins tickets candles roses bricks shells buttons pencils plates cherries tulips "
    "postcards badges biscuits lemons stickers nails feathers mugs tiles"
)
CONTAINERS = split("boxes bags baskets rows trays packets jars crates bundles shelves")
SETTINGS = (
    "{n} is getting ready for the fair.",
    "It is raining, so {n} tidies the cellar.",
    "The shop of {n} opens at nine.",
    "{n} has been collecting things since spring.",
    "This one is about {n}.",
    "On Saturday {n} and {m} clear out the garage.",
    "Read the following slowly.",
    "Problem 7 looks harder than it is.",
    "Here is a small story with numbers in it.",
    "{n} likes to know exactly what there is.",
    "Nobody has counted anything since the party.",
    "A question for the whole table.",
)
STARTS_TIMES = (
    "There are {k} {containers} with {each} {items} in each.",
    "{n} fills {k} {containers}, each with {each} {items}.",
    "{n} has {k} {containers} of {each} {items}.",
    "In the hall stand {k} {containers}, and every one of them holds {each} {items}.",
)
STARTS_PLAIN = (
    "There are {x} {items}.",
    "{n} starts with {x} {items}.",
    "{n} has {x} {items}.",
    "In the hall lie {x} {items}.",
)
"""As many as there are of those with times: a pair takes the same one of each."""
GAINS = (
    "{m} brings another {x}.",
    "Then {n} buys {x} more.",
    "In the cellar {n} finds {x} more.",
    "A neighbour carries in {x} more of them.",
    "By noon {m} has added {x} of {mhis} own.",
    "The postman delivers {x} more.",
)
LOSSES = (
    "{n} gives {x} of them to {m}.",
    "On the way home {x} of them get lost.",
    "{n} sells {x} before lunch.",
    "{m} takes {x} away.",
    "Sadly, {x} of them are broken and must be thrown out.",
    "Of these, {x} go to the school next door.",
)
SHARES = (
    "In the end everything is shared equally among {d} children.",
    "What there is then is divided evenly between {d} friends.",
    "At last {n} puts the same number on each of {d} tables.",
)
ASKS_ALL = (
    "How many {items} are there now?",
    "How many {items} does that make?",
    "With how many {items} does the day end?",
    "What is the number of {items} in the end?",
)
ASKS_EACH = (
    "How many {items} are there in each part?",
    "How many {items} make one share?",
    "What does each part come to?",
    "How many {items} is that apiece?",
)
THINK = (
    "Let us go step by step.",
    "Take it one thing at a time.",
    "We write down every step.",
    "Start at the beginning.",
    "Slowly, then.",
    "Working:",
    "{n} reaches for a pencil.",
    "On paper it looks like this.",
)
UNSOLVED = (
    "The answer is on the last page of the book.",
    "Nobody in the class has put up a hand yet.",
    "{n} chews the pencil and looks out of the window.",
    "Solve it at home and bring it on Monday.",
    "The lamp goes out before anyone can say a word.",
    "It was on page 31, and it was never solved.",
    "Hand in your sheet when the bell rings.",
    "{m} shrugs and turns over the page.",
)
STEP_WORDS = {
    "×": (
        ("Together the {containers} hold", ""),
        ("{k} times {each}, that is", ""),
        ("All {containers} together:", ""),
        ("Since every one holds {each}, we multiply:", ""),
    ),
    "+": (
        ("Some are added:", ""),
        ("With the new ones there are", ""),
        ("Then {x} come in, so", ""),
        ("Putting both together gives", ""),
        ("Now add {x}:", ""),
    ),
    "-": (
        ("Then {x} are gone:", ""),
        ("That leaves", ""),
        ("Take away {x}, and", "remain"),
        ("Without those {x} there are", ""),
        ("Subtract {x}:", ""),
    ),
    "÷": (
        ("Shared among {x}, that is", ""),
        ("Each part gets", ""),
        ("Divide by {x}:", ""),
        ("In {x} equal parts there are", "each"),
    ),
}
"""Words before and after a calculation."""
ANSWERS = (
    "So the answer is",
    "The answer:",
    "Hence the result is",
    "That makes, in the end,",
    "And so we write down",
    "Therefore the number we wanted is",
)
NOTHING = ("Nothing is added and nothing is taken away.", "There is nothing to work out.")
SHEETS = (
    "Exercises, page {page}.",
    "Mental arithmetic for today.",
    "Work out the following.",
    "Sheet {page}, written in pencil.",
    "{n} is practising for the test.",
    "Numbers before breakfast.",
    "Three minutes, no calculator.",
    "{n} and {m} take turns at the blackboard.",
    "A page from the notebook of {n}.",
)
TASKS = (
    "What is {task}?",
    "Find {task}.",
    "Work out {task}.",
    "Now for {task}.",
    "{task}, says the teacher.",
    "Try {task}.",
    "How much is {task}?",
    "The next one is {task}.",
)
CARRIES = (
    "write {u} and carry 1",
    "so {u} goes down and 1 is carried",
    "put down {u}, carry one",
    "that is {u} and one ten to carry over",
)
TENS_CARRIED = (
    "In the tens, with the one carried over,",
    "For the tens, remembering the 1,",
    "The tens, plus the carried 1, are",
)
TENS_PLAIN = ("In the tens,", "For the tens,", "The tens are")
ONES = ("Ones first:", "Begin with the ones:", "The ones:", "From the right,")
SPLITS_MINUS = ("First take away the tens:", "Tens first:", "Go down by {t}:")
SPLITS_TIMES = ("Split {b} into {t} and {u}:", "First the tens:", "Take {t} and {u} apart:")
SECONDS = ("then", "and then", "next,", "after that")
TOGETHER = ("together", "and both", "in total", "which makes")
DIVIDES = ("Think of the table of {b}:", "How often does {b} fit? We know that", "Check backwards:")
SHEET_ENDS = (
    "That was the last one.",
    "Check each line again.",
    "{n} puts the pencil down.",
    "Right, says {m}.",
    "Not bad for a Monday.",
    "Break time.",
    "",
    "",
)
