"""Hebrew words and sentences. ``[|ה]`` agrees with the person a story is about, ``<|ה>`` with the other one in it."""

from kanary.text.labelled.templates import agreeing_lines, split, tables

TOWNS = ("Haifa", "Jerusalem", "Jaffa", "Tel Aviv", "Beersheba", "Safed", "Acre", "Tiberias")
HOSTS = (("Yosef", "Avner", "Moshe", "Eitan", "Gideon", "Uri"), ("Shira", "Tamar", "Rivka", "Noa", "Yael", "Dalia"))
MEN = ("יוסף", "אבנר", "משה", "איתן", "גדעון", "אורי", "דוד", "רון", "שמעון", "יעקב")
WOMEN = ("שירה", "תמר", "רבקה", "נועה", "יעל", "דליה", "מרים", "רחל", "חנה", "אסתר")
PHRASES = {
    "greet": tables(
        """
        Good morning|בוקר טוב|Boker tov
        Good evening|ערב טוב|Erev tov
        Welcome|ברוכים הבאים|Bruchim habaim
        Peace be upon you|שלום עליכם|Shalom aleichem
        """,
        3,
    ),
    "thanks": tables(
        """
        Thank you very much|תודה רבה|Toda raba
        Thank you for everything|תודה על הכול|Toda al hakol
        A thousand thanks|אלף תודות|Elef todot
        """,
        3,
    ),
    "bye": tables(
        """
        See you soon|להתראות|Lehitraot
        Good night|לילה טוב|Laila tov
        Have a good journey|נסיעה טובה|Nesia tova
        Until tomorrow|עד מחר|Ad machar
        """,
        3,
    ),
    "ask": tables(
        """
        Where is the station?|איפה התחנה?|Eifo hatachana?
        How much does it cost?|כמה זה עולה?|Kama ze ole?
        What time is it?|מה השעה?|Ma hashaa?
        Is it far from here?|זה רחוק מכאן?|Ze rachok mikan?
        What is new?|מה חדש?|Ma chadash?
        """,
        3,
    ),
    "sign": tables(
        """
        Closed on Saturdays|סגור בשבת|Sagur beshabat
        Drinking water|מי שתייה|Mei shtiya
        No entry|אין כניסה|Ein knisa
        Exit to the garden|יציאה לגינה|Yetsia lagina
        Fresh bread every day|לחם טרי כל יום|Lechem tari kol yom
        """,
        3,
    ),
    "food": tables(
        """
        Bread with cheese|לחם עם גבינה|Lechem im gvina
        Rice with chicken|אורז עם עוף|Orez im of
        Lentil soup|מרק עדשים|Marak adashim
        Fish with lemon|דג עם לימון|Dag im limon
        Apple cake|עוגת תפוחים|Ugat tapuchim
        """,
        3,
    ),
    "saying": tables(
        """
        All is well that ends well|סוף טוב הכול טוב|Sof tov hakol tov
        Little by little|לאט לאט|Leat leat
        Who is rich? He who is content with his share|איזהו עשיר? השמח בחלקו|Eizehu ashir? Hasameach bechelko
        A wise man has his eyes in his head|החכם עיניו בראשו|Hechacham einav berosho
        Better a near neighbour than a distant brother|טוב שכן קרוב מאח רחוק|Tov shachen karov meach rachok
        """,
        3,
    ),
}
WORDS = tables(
    """
    house|בית|bayit
    book|ספר|sefer
    key|מפתח|mafteach
    window|חלון|chalon
    door|דלת|delet
    table|שולחן|shulchan
    chair|כיסא|kise
    bread|לחם|lechem
    water|מים|mayim
    apple|תפוח|tapuach
    dog|כלב|kelev
    cat|חתול|chatul
    horse|סוס|sus
    moon|ירח|yareach
    sun|שמש|shemesh
    sea|ים|yam
    friend|חבר|chaver
    brother|אח|ach
    sister|אחות|achot
    street|רחוב|rechov
    city|עיר|ir
    hat|כובע|kova
    letter|מכתב|michtav
    bridge|גשר|gesher
    garden|גינה|gina
    tree|עץ|ets
    bird|ציפור|tsipor
    fish|דג|dag
    milk|חלב|chalav
    shoe|נעל|naal
    """,
    3,
)
_ADJECTIVES = (
    *((stem, f"{stem}ה") for stem in split("חדש ישן גדול קטן אדום ירוק כחול שחור זול")),
    ("יפה", "יפה"),
    ("לבן", "לבנה"),
)
_STEMS = {"ישן": "ישנה", "קטן": "קטנה", "אדום": "אדומה"}
"""Final letters change their shape when an ending follows."""
THINGS = tuple(
    (f"{noun} {male}", f"ה{noun}", f"{noun} {male}")
    for noun in split("ספר מפתח כובע שעון מעיל תיק כיסא פנס תוף עיפרון")
    for male, _ in _ADJECTIVES
) + tuple(
    (f"{noun} {_STEMS.get(male, female)}", f"ה{noun}", f"{noun} {_STEMS.get(male, female)}")
    for noun in split("מנורה חולצה מצלמה שמיכה מטרייה גיטרה תמונה מחברת")
    for male, female in _ADJECTIVES
)
LISTS = {
    "day": split("ראשון שני שלישי רביעי חמישי שישי"),
    "when": ("בבוקר", "אחרי הצהריים", "מוקדם מאוד", "לפני ארוחת הערב"),
    "ago": ("לפני שבוע", "לפני חודש", "לפני יומיים", "לפני שבועיים", "בקיץ שעבר"),
    "weather": ("ירד גשם", "זרחה השמש", "היה קר מאוד", "היה חם", "נשבה רוח חזקה", "ירד שלג בהרים"),
    "place": ("לשוק", "לתחנה", "לנמל", "לספרייה", "לפארק", "למאפייה", "לבית הספר", "למוזיאון"),
    "there": ("ליד הנהר", "מתחת לעץ גדול", "בבית קפה קטן", "על ספסל ברחוב", "מול הגשר"),
    "kin": ("אחות", "אמ", "סבת", "דודת", "גיסת"),
    "eaten": ("לחם עם גבינה", "מרק עדשים", "דג עם אורז", "סלט וזיתים", "עוף עם תפוחי אדמה", "ביצים ועגבניות"),
    "drink": ("כוס תה", "קפה שחור", "מיץ תפוזים", "כוס חלב", "מים קרים"),
    "town": ("חיפה", "ירושלים", "תל אביב", "באר שבע", "עכו", "צפת", "יפו"),
    "far": ("איטליה", "יוון", "הודו", "פריז"),
    "work": ("בבית חולים", "בבית ספר", "במפעל", "בדואר", "בחנות ספרים", "במסעדה"),
    "house": ("ישן", "קטן", "לבן על הגבעה", "עם גג אדום", "בן שתי קומות"),
    "pet": ("כלב חום", "חתולה אפורה", "צב זקן", "תוכי ירוק", "שני ארנבים"),
}
_DAY = (
    (
        """
        ביום {day} {when} יצא[|ה] {n} מהבית ו[הלך|הלכה] {place}.
        באותו יום {weather}, ו{n} [הלך|הלכה] {place}.
        {n} התעורר[|ה] מוקדם ונסע[|ה] באוטובוס {place}.
        {ago} [הלך|הלכה] {n} {place} עם רשימה ארוכה.
        """,
        100,
    ),
    (
        """
        [הוא היה עייף|היא הייתה עייפה] כי לא [ישן|ישנה] טוב בלילה.
        [הוא היה שמח ושר|היא הייתה שמחה ושרה] כל הדרך.
        [הוא|היא] לא מיהר[|ה] והסתכל[|ה] בחלונות של החנויות.
        בדרך [הוא|היא] אמר[|ה] שלום לכל השכנים.
        """,
        75,
    ),
    (
        """
        בחנות קטנה [הוא קנה|היא קנתה] {thing} ל{kin}[ו|ה].
        באחת החנויות [הוא ראה|היא ראתה] {thing} ו[שילם|שילמה] בלי להתווכח.
        מוכר זקן מכר ל[ו|ה] {thing} במחיר נמוך.
        [הוא חיפש מתנה וקנה|היא חיפשה מתנה וקנתה] {thing}.
        """,
        100,
    ),
    (
        """
        אחר כך [הוא ישב|היא ישבה] {there} ו[שתה|שתתה] {drink}.
        בצהריים [הוא|היא] אכל[|ה] {eaten} {there}.
        [הוא היה רעב והזמין|היא הייתה רעבה והזמינה] {eaten}.
        """,
        80,
    ),
    (
        """
        פתאום [הוא ראה|היא ראתה] את {m}, <חבר ישן|חברה ישנה>, ליד הדלת.
        בדרך חזרה [הוא פגש|היא פגשה] את {m}, <הרופא|הרופאה> של השכונה.
        אז הגיע<|ה> {m} עם סל מלא תפוחים.
        באותו רגע נכנס<|ה> {m}, כרגיל <ממהר|ממהרת> מאוד.
        """,
        100,
    ),
    (
        """
        "מה קנית היום?" שאל<|ה> {m}. "{thing}," ענ[ה|תה] {n}.
        "מה שלומך?" שאל<|ה> {m}. "הכול בסדר," ענ[ה|תה] {n} ו[חייך|חייכה].
        "[אתה עייף|את עייפה]?" שאל<|ה> {m}. "קצת," אמר[|ה] {n}.
        השיחה הייתה על המשפחה, על העבודה ועל הימים הישנים.
        {m} סיפר<|ה> ש<הוא גר|היא גרה> עכשיו ב{town} ו<עובד|עובדת> {work}.
        """,
        90,
    ),
    (
        """
        {n} פתח[|ה] את השקית והוציא[|ה] את {the_thing}.
        {m} הסתכל<|ה> על {the_thing} ו<חייך|חייכה>.
        {m} החזיק<|ה> את {the_thing} בזהירות.
        """,
        60,
    ),
    (
        """
        {n} חזר[|ה] הביתה אחרי השקיעה.
        בערב {n} [שם|שמה] את {the_thing} על השולחן ו[נרדם|נרדמה] מיד.
        {n} הגיע[|ה] הביתה [עייף|עייפה] אבל [שמח|שמחה].
        למחרת {n} כתב[|ה] מכתב ארוך ל{kin}[ו|ה].
        מאז {n} [נפגש|נפגשת] עם {m} כל שבוע.
        """,
        100,
    ),
)
_LIFE = (
    (
        """
        {n} גר[|ה] ב{town}, בבית {house}.
        הבית של {n} נמצא ב{town}, ברחוב שקט.
        {n} חדש[|ה] בשכונה ו[עובד|עובדת] {work}.
        כבר שנים {n} גר[|ה] לבד ב{town} ו[עובד|עובדת] {work}.
        """,
        100,
    ),
    (
        """
        בבית יש מטבח גדול, שלושה חדרים וגינה קטנה.
        הדלת ירוקה והקירות לבנים.
        לפני הבית צומח עץ גבוה שנותן צל בקיץ.
        מהמרפסת רואים את הגגות ואת ההרים.
        """,
        80,
    ),
    (
        """
        בסלון יש {thing}, ואף אחד לא יודע למה.
        ליד המיטה יש {thing}, מתנה מ{kin}[ו|ה].
        ליד הדלת יש תמיד {thing}.
        """,
        70,
    ),
    (
        """
        יש שם גם {pet}.
        הילדים של השכנים אוהבים לשחק עם {pet}.
        """,
        60,
    ),
    (
        """
        כל בוקר {n} שותה {drink}, [קורא|קוראת] עיתון ו[יוצא|יוצאת] לעבודה.
        בימי {day} המשפחה אוכלת {eaten} במטבח.
        {n} [עובד|עובדת] הרבה, אבל בשבת [הוא ישן|היא ישנה] עד מאוחר.
        לפני היציאה {n} משקה את הפרחים ו[סוגר|סוגרת] את החלונות.
        """,
        100,
    ),
    (
        """
        {m} <הוא חבר טוב|היא חברה טובה>, <גבוה, נדיב ושקט|גבוהה, נדיבה ושקטה>.
        <השכן|השכנה> {m} תמיד <עסוק ונחמד|עסוקה ונחמדה> לכולם.
        לפעמים בא<|ה> {m} ו<מספר|מספרת> סיפורים עד הלילה.
        """,
        100,
    ),
    (
        """
        {n} [הולך|הולכת] עם {m} {place} ו[מדבר|מדברת] על הכול.
        כשיורד גשם, {n} [מכין|מכינה] {eaten} ו[מקשיב|מקשיבה] לרדיו.
        כשמזג האוויר יפה, {n} [יושב|יושבת] עם {m} {there}.
        """,
        80,
    ),
    (
        """
        החיים כאן שקטים, והזמן עובר לאט.
        בשנה הבאה {n} רוצה לנסוע ל{far}.
        לאף אחד אין הרבה כסף, אבל לכולם יש לחם.
        כך עוברים הימים, וטוב שכך.
        """,
        100,
    ),
)
STORIES = tuple(tuple((agreeing_lines(text), percent) for text, percent in story) for story in (_DAY, _LIFE))
