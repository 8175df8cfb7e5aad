"""Names, comments and functions of the program code.

In the functions, words in capitals stand for names that are drawn; ``@`` stands before a name that is the only right
one, and ``§`` before brackets that must be closed.
"""

from kanary.text.labelled.templates import split

NUMBERS = tuple(
    pair.split("/")
    for pair in split(
        "prices/price scores/score ages/age heights/height weights/weight lengths/length points/point distances/distance "
        "speeds/speed widths/width counts/count marks/mark votes/vote wages/wage debts/debt rates/rate shares/share "
        "depths/depth levels/level values/value numbers/number tides/tide goals/goal costs/cost rents/rent steps/step"
    )
)
TEXTS = tuple(
    pair.split("/")
    for pair in split(
        "names/name cities/city colours/colour fruits/fruit titles/title letters/letter animals/animal words/word rivers/river "
        "songs/song teams/team streets/street countries/country planets/planet ships/ship flowers/flower tools/tool dishes/dish"
    )
)
ROWS = tuple(
    trio.split("/")
    for trio in split("rows/row/cell grid/line/field table/row/entry matrix/vector/entry sheets/sheet/mark")
)
SUMS = split("total result amount answer tally whole")
BESTS = split("best record top winner current champion")
LISTS = split("found kept chosen output selected picked")
LIMITS = split("limit bound threshold minimum floor border")
INDEXES = split("i index position place j")
COUNTS = split("n steps k number turns left")
TABLES = split("seen table counts register stock tally")
STRINGS = (
    "done",
    "for sale",
    "if only",
    "return to sender",
    "not today",
    "number # 7",
    "while supplies last",
    "hello",
    "nothing found",
    "try again",
    "the end",
    "def. rest",
    "ready",
    "in stock",
    "closed",
)
VALUES = split(
    "lemon salt river stone maple copper violet amber north south east west spring autumn ember willow harbour lantern"
)
HEADS = (
    "written on a train, please check",
    "used by the shop every evening",
    "TODO: find a better name",
    "slow, but easy to follow",
    "see the notes from Monday",
    "nobody remembers why this is here",
    "return early if there is nothing to do",
    "this works for small lists only",
    "the old version had a bug",
    "careful: order matters",
    "adapted from the handbook",
    "for loops are fine here",
    "print(total) was here before",
)
DATA_HEADS = (
    "settings for the next run",
    "measured last winter",
    "do not edit by hand",
    "one line for each place",
    "TODO: ask about the last one",
    "copied from the old sheet",
    "in centimetres",
    "if in doubt, leave as it is",
)
DOCS = (
    "Says what is left.",
    "For a list of numbers.",
    "Return the answer.",
    "Nothing is printed here.",
    "Works on any list.",
)
DATA_NAMES = split("plan layout board places routes corners levels moves shifts chart blocks prices sizes stations")

FUNCTIONS = (
    (
        "number",
        "total_XS sum_of_XS add_up_XS XS_together",
        """
def FUN(XS):
    ACC = 0
    for X in @XS:
        ACC += @X
    return @ACC
""",
    ),
    (
        "number",
        "count_XS how_many_XS XS_above",
        """
def FUN(XS):
    LIMIT = N
    ACC = 0  # starts at nothing
    for X in @XS:
        if X > @LIMIT:
            ACC += 1
    return @ACC
""",
    ),
    (
        "number",
        "largest_X highest_X top_X find_largest_X",
        """
def FUN(XS):
    BEST = XS[0]
    for X in @XS:
        if X > @BEST:
            BEST = @X  # a better one
    return @BEST
""",
    ),
    (
        "number",
        "smallest_X lowest_X find_smallest_X",
        """
def FUN(XS):
    BEST = XS[0]
    for X in @XS:
        if X >= @BEST:
            continue
        BEST = @X
    return @BEST
""",
    ),
    (
        "number",
        "even_XS keep_even_XS only_even_XS",
        """
def FUN(XS):
    LIST = []
    for X in @XS:
        if X % 2 == 0:
            LIST.append(@X§)
    return @LIST
""",
    ),
    (
        "number",
        "mean_X average_X middle_of_XS",
        """
def FUN(XS):
    if not @XS:
        return 0  # nothing to divide
    return sum(@XS§) // len(@XS§)
""",
    ),
    (
        "number",
        "squared_XS scaled_XS longer_XS",
        """
def FUN(XS):
    # every X once
    return [X * N for X in @XS§]
""",
    ),
    (
        "number",
        "running_XS XS_so_far",
        """
def FUN(XS):
    ACC = 0
    LIST = []
    for X in @XS:
        ACC += @X
        LIST.append(@ACC§)
    return @LIST
""",
    ),
    (
        "text",
        "longest_X find_longest_X widest_X",
        """
def FUN(XS):
    BEST = ""
    for X in @XS:
        if len(@X§) > len(@BEST§):
            BEST = @X
    return @BEST
""",
    ),
    (
        "text",
        "count_XS tally_XS frequency_of_XS",
        """
def FUN(XS):
    TABLE = {}
    for X in @XS:
        TABLE[@X§] = TABLE.get(X, 0) + 1
    return @TABLE
""",
    ),
    (
        "text",
        "print_XS show_XS list_XS",
        """
def FUN(XS):
    for INDEX in range(len(@XS§)):
        print(INDEX, XS[@INDEX§])
    print("STR")  # last line
""",
    ),
    (
        "text",
        "first_letters initials_of_XS short_XS",
        """
def FUN(XS):
    LIST = []
    for X in @XS:
        LIST.append(X[0§])
    return @LIST
""",
    ),
    (
        "text",
        "check_XS find_X search_XS",
        """
def FUN(XS):
    if "VALUE" in @XS:
        return "STR"
    else:
        # it was never there
        return "VALUE2"
""",
    ),
    (
        "rows",
        "total_of_XS sum_XS add_XS",
        """
def FUN(XS):
    ACC = 0
    for X in @XS:
        for CELL in @X:
            ACC += @CELL
    return @ACC
""",
    ),
    (
        "rows",
        "sums_of_XS weigh_XS reduce_XS",
        """
def FUN(XS):
    LIST = []
    for X in @XS:
        LIST.append(sum(@X§))
    return @LIST
""",
    ),
    (
        "count",
        "countdown count_down launch wait_for_it",
        """
def FUN(COUNT):
    while COUNT > 0:
        print(@COUNT§)
        COUNT -= 1
    return "STR"
""",
    ),
    (
        "count",
        "factorial product_up_to multiply_down",
        """
def FUN(COUNT):
    if COUNT < 2:
        return 1  # nothing left to multiply
    return COUNT * @FUN(@COUNT - 1§)
""",
    ),
    (
        "count",
        "describe judge label_for grade",
        """
def FUN(COUNT):
    if COUNT > 20:
        return "VALUE"
    elif COUNT > 10:
        return "STR"
    return "VALUE2"
""",
    ),
    (
        "count",
        "halvings times_halved shrink",
        """
def FUN(COUNT):
    ACC = 0
    while COUNT > 1:
        COUNT = COUNT // 2
        ACC += 1
    return @ACC
""",
    ),
)
"""What is given (a kind of list, or a count), names of the function, and its source."""
