"""Arabic words and sentences. ``[|ة]`` agrees with the person a story is about, ``<|ة>`` with the other one in it.

Verbs, adjectives and possessives agree in gender, numbers and colours with their nouns; objects of verbs stand in the
accusative, which is seen in indefinite masculine nouns only (كتابًا).
"""

from kanary.text.labelled.templates import agreeing_lines, split, tables

TOWNS = ("Cairo", "Beirut", "Amman", "Tunis", "Rabat", "Damascus", "Baghdad", "Muscat")
HOSTS = (("Karim", "Hassan", "Tarek", "Yusuf", "Samir", "Omar"), ("Layla", "Salma", "Fatima", "Zaynab", "Suad", "Hana"))
MEN = ("كريم", "حسن", "طارق", "يوسف", "سمير", "عمر", "أحمد", "خالد", "علي", "محمود")
WOMEN = ("ليلى", "سلمى", "فاطمة", "زينب", "سعاد", "هناء", "مريم", "نور", "أمينة", "رانيا")
PHRASES = {
    "greet": tables(
        """
        Good morning|صباح الخير|Sabah al-khayr
        Good evening|مساء الخير|Masa al-khayr
        Welcome|أهلا وسهلا|Ahlan wa sahlan
        Peace be upon you|السلام عليكم|As-salamu alaykum
        Come in, please|تفضل بالدخول|Tafaddal bid-dukhul
        """,
        3,
    ),
    "thanks": tables(
        """
        Thank you very much|شكرا جزيلا|Shukran jazilan
        Thank you for everything|شكرا على كل شيء|Shukran ala kull shay
        A thousand thanks|ألف شكر|Alf shukr
        """,
        3,
    ),
    "bye": tables(
        """
        Goodbye|مع السلامة|Maa s-salama
        See you soon|إلى اللقاء|Ila l-liqa
        Good night|تصبح على خير|Tusbih ala khayr
        See you tomorrow|أراك غدا|Araka ghadan
        """,
        3,
    ),
    "ask": tables(
        """
        Where is the station?|أين المحطة؟|Ayna l-mahatta?
        How much is this?|بكم هذا؟|Bikam hadha?
        What time is it?|كم الساعة؟|Kam as-saa?
        Is it far from here?|هل هو بعيد من هنا؟|Hal huwa baid min huna?
        What is the news?|ما الأخبار؟|Ma l-akhbar?
        """,
        3,
    ),
    "sign": tables(
        """
        Closed on Fridays|مغلق يوم الجمعة|Mughlaq yawm al-jumua
        Drinking water|ماء للشرب|Ma lish-shurb
        No entry|ممنوع الدخول|Mamnu ad-dukhul
        The way to the garden|الطريق إلى الحديقة|At-tariq ila l-hadiqa
        Fresh bread every day|خبز طازج كل يوم|Khubz tazaj kull yawm
        """,
        3,
    ),
    "food": tables(
        """
        Bread with cheese|خبز مع الجبن|Khubz maa l-jubn
        Rice with chicken|أرز مع الدجاج|Aruzz maa d-dajaj
        Lentil soup|حساء العدس|Hasa al-adas
        Grilled fish|سمك مشوي|Samak mashwi
        Apple cake|كعكة التفاح|Kakat at-tuffah
        """,
        3,
    ),
    "saying": tables(
        """
        Patience is the key to relief|الصبر مفتاح الفرج|As-sabr miftah al-faraj
        The neighbour before the house|الجار قبل الدار|Al-jar qabl ad-dar
        The best talk is short and clear|خير الكلام ما قل ودل|Khayr al-kalam ma qalla wa dall
        Every delay has some good in it|كل تأخيرة وفيها خيرة|Kull takhira wa fiha khira
        Knowledge is light|العلم نور|Al-ilm nur
        """,
        3,
    ),
}
WORDS = tables(
    """
    house|بيت|bayt
    book|كتاب|kitab
    key|مفتاح|miftah
    window|نافذة|nafidha
    door|باب|bab
    table|طاولة|tawila
    chair|كرسي|kursi
    bread|خبز|khubz
    water|ماء|ma
    apple|تفاحة|tuffaha
    dog|كلب|kalb
    cat|قطة|qitta
    horse|حصان|hisan
    moon|قمر|qamar
    sun|شمس|shams
    sea|بحر|bahr
    friend|صديق|sadiq
    brother|أخ|akh
    sister|أخت|ukht
    street|شارع|shari
    city|مدينة|madina
    hat|قبعة|qubbaa
    letter|رسالة|risala
    bridge|جسر|jisr
    garden|حديقة|hadiqa
    tree|شجرة|shajara
    fish|سمكة|samaka
    milk|حليب|halib
    pen|قلم|qalam
    boat|قارب|qarib
    """,
    3,
)
_ADJECTIVES = (
    *((f"{stem}", f"{stem}ًا", f"{stem}ة") for stem in split("جديد قديم صغير كبير جميل رخيص غريب")),
    *(
        (male, male, female)
        for male, female in (
            ("أحمر", "حمراء"),
            ("أخضر", "خضراء"),
            ("أزرق", "زرقاء"),
            ("أبيض", "بيضاء"),
            ("أسود", "سوداء"),
        )
    ),
)
"""Masculine, masculine in the indefinite accusative (colours have no ending there), feminine."""
THINGS = tuple(
    (f"{noun}ًا {accusative}", f"ال{noun}", f"{noun} {male}")
    for noun in split("كتاب قميص مفتاح قلم كرسي صندوق معطف دفتر مصباح خاتم")
    for male, accusative, _ in _ADJECTIVES
) + tuple(
    (f"{noun} {female}", f"ال{noun}", f"{noun} {female}")
    for noun in split("حقيبة ساعة صورة سجادة لوحة مظلة قبعة مرآة")
    for _, _, female in _ADJECTIVES
)
LISTS = {
    "day": split("السبت الأحد الاثنين الثلاثاء الأربعاء الخميس"),
    "when": ("الصباح", "المساء", "الظهيرة", "وقت مبكر"),
    "ago": ("قبل أسبوع", "قبل شهر", "قبل أيام", "قبل أسبوعين", "في الشهر الماضي"),
    "weather": (
        "كان الجو باردًا",
        "كان الجو حارًا",
        "كان المطر ينزل",
        "كانت الشمس مشرقة",
        "كانت الريح قوية",
        "كان الثلج على الجبال",
    ),
    "place": ("السوق", "المدرسة", "المكتبة", "الميناء", "المحطة", "الحديقة العامة", "المخبز", "المتحف"),
    "there": ("قرب النهر", "تحت شجرة كبيرة", "أمام المسجد", "في مقهى صغير", "على مقعد خشبي"),
    "kin": ("أخت", "جدت", "أم", "عم", "خالت", "عمت"),
    "eaten": ("خبزًا وجبنًا", "سمكًا مع الأرز", "حساء العدس", "دجاجًا مع البطاطس", "سلطة وزيتونًا", "فولًا وبصلًا"),
    "drink": ("فنجان قهوة", "كأس شاي", "كوب ماء", "عصير برتقال", "كوب حليب"),
    "town": ("القاهرة", "بيروت", "عمّان", "تونس", "الرباط", "دمشق", "بغداد"),
    "far": ("إسبانيا", "الهند", "إيطاليا", "تركيا"),
    "work": ("في مستشفى كبير", "في مدرسة قريبة", "في مصنع", "في مكتبة", "في البريد", "في مطعم"),
    "house": ("قديم", "صغير", "أبيض قرب البحر", "من حجر", "من طابقين"),
    "pet": ("كلب بني", "قطة رمادية", "سلحفاة كبيرة", "حصان أسود", "عصفور صغير"),
}
_DAY = (
    (
        """
        ذهب[|ت] {n} يوم {day} إلى {place}.
        خرج[|ت] {n} من البيت في {when} وتوجه[|ت] إلى {place}.
        في ذلك اليوم {weather}، وذهب[|ت] {n} إلى {place}.
        استيقظ[|ت] {n} مبكرًا يوم {day} ومش[ى|ت] إلى {place}.
        {ago} ذهب[|ت] {n} إلى {place} مع {kin}[ه|ها].
        """,
        100,
    ),
    (
        """
        كان[|ت] متعب[ًا|ة] لأن[ه|ها] لم [ينم|تنم] جيدًا.
        كان[|ت] سعيد[ًا|ة]، وكان[|ت] [يغني|تغني] في الطريق بصوت منخفض.
        لم [يكن|تكن] مستعجل[ًا|ة]، وكان[|ت] [ينظر|تنظر] إلى النوافذ.
        في الطريق سلّم[|ت] على الجيران وعلى حارس المدرسة.
        """,
        75,
    ),
    (
        """
        في دكان صغير اشتر[ى|ت] {thing} ل{kin}[ه|ها].
        وجد[|ت] في أحد المحلات {thing} ودفع[|ت] الثمن.
        أعطا[ه|ها] البائع {thing} مقابل مبلغ صغير.
        كان[|ت] [يبحث|تبحث] عن هدية، فاختار[|ت] {thing}.
        """,
        100,
    ),
    (
        """
        ثم جلس[|ت] {there} وشرب[|ت] {drink}.
        بعد ذلك أكل[|ت] {eaten} {there}.
        شعر[|ت] بالجوع وطلب[|ت] {eaten}.
        استراح[|ت] قليلًا {there}، وطلب[|ت] {drink}.
        """,
        80,
    ),
    (
        """
        فجأة رأ[ى|ت] صديق<|ت>[ه|ها] {m} <واقفًا|واقفة> أمام الباب.
        في طريق العودة قابل[|ت] {m}، وه<و|ي> <طبيب|طبيبة> الحي.
        ثم جاء<|ت> {m}، وكان<|ت> <يحمل|تحمل> سلة من التفاح.
        وصل<|ت> {m} في تلك اللحظة، وكان<|ت> <مسرعًا|مسرعة> كالعادة.
        """,
        100,
    ),
    (
        """
        سأل<|ت> {m}: «ماذا اشتريت اليوم؟» فقال[|ت] {n}: «اشتريت {thing}.»
        قال<|ت> {m}: «كيف حالك؟» فأجاب[|ت] {n}: «بخير، والحمد لله.»
        سأل<|ت> {m}: «هل أنت متعب[|ة]؟» فضحك[|ت] {n} وقال[|ت]: «قليلًا.»
        كان الحديث عن العائلة والعمل والأيام القديمة.
        قال<|ت> {m} إن<ه|ها> <يسكن|تسكن> الآن في {town} و<يعمل|تعمل> {work}.
        """,
        90,
    ),
    (
        """
        فتح[|ت] {n} الكيس وأخرج[|ت] {the_thing}.
        نظر<|ت> {m} إلى {the_thing} طويلًا ثم ابتسم<|ت>.
        أخذ<|ت> {m} {the_thing} بيدين حذرتين.
        """,
        60,
    ),
    (
        """
        عاد[|ت] {n} إلى البيت بعد غروب الشمس.
        في المساء وضع[|ت] {n} {the_thing} على الطاولة ونام[|ت] بسرعة.
        وصل[|ت] {n} إلى البيت متعب[ًا|ة] ولكن[ه|ها] سعيد[|ة].
        في اليوم التالي كتب[|ت] {n} رسالة طويلة إلى {kin}[ه|ها].
        ومنذ ذلك اليوم [يلتقي|تلتقي] {n} مع {m} كل أسبوع.
        """,
        100,
    ),
)
_LIFE = (
    (
        """
        [يسكن|تسكن] {n} في {town} في بيت {house}.
        بيت {n} في {town}، وهو في شارع هادئ.
        {n} جديد[|ة] في الحي، و[يعمل|تعمل] {work}.
        [يعمل|تعمل] {n} {work} و[يسكن|تسكن] وحد[ه|ها] في {town}.
        """,
        100,
    ),
    (
        """
        في البيت مطبخ واسع وثلاث غرف وحديقة صغيرة.
        باب البيت أخضر وجدرانه بيضاء.
        أمام البيت شجرة عالية تعطي الظل في الصيف.
        من الشرفة ترى العين الجبال وسطوح المدينة.
        """,
        80,
    ),
    (
        """
        في الغرفة الكبيرة {a_thing} منذ سنوات طويلة.
        قرب السرير {a_thing}، هدية من {kin}[ه|ها].
        عند المدخل {a_thing}، ولا أحد يعرف السبب.
        """,
        70,
    ),
    (
        """
        وفي الحديقة {pet}، والأولاد يلعبون هناك كل مساء.
        عند الجيران {pet}، والجميع يعرف ذلك.
        """,
        60,
    ),
    (
        """
        كل صباح [يشرب|تشرب] {n} {drink} و[يقرأ|تقرأ] الجريدة ثم [يخرج|تخرج] إلى العمل.
        يوم {day} تجتمع العائلة وتأكل {eaten}.
        [يعمل|تعمل] {n} كثيرًا، لكن[ه|ها] [يستريح|تستريح] يوم الجمعة.
        قبل الخروج [يسقي|تسقي] {n} الأزهار و[يغلق|تغلق] النوافذ.
        """,
        100,
    ),
    (
        """
        {m} <صديق قديم|صديقة قديمة>، وه<و|ي> <طويل وكريم وقليل|طويلة وكريمة وقليلة> الكلام.
        جار<|ت>[ه|ها] {m} <مشغول|مشغولة> دائمًا و<لطيف|لطيفة> مع الجميع.
        أحيانًا <يأتي|تأتي> {m} لزيارت[ه|ها] و<يحكي|تحكي> القصص حتى الليل.
        """,
        100,
    ),
    (
        """
        [يذهب|تذهب] {n} مع {m} إلى {place} و[يتحدث|تتحدث] عن كل شيء.
        عندما ينزل المطر [يحضر|تحضر] {n} {eaten} و[يسمع|تسمع] الراديو.
        إذا كان الجو جميلًا، فإن {n} [يجلس|تجلس] مع {m} {there}.
        """,
        80,
    ),
    (
        """
        الحياة هنا هادئة والوقت يمر ببطء.
        في السنة القادمة [يريد|تريد] {n} السفر إلى {far}.
        لا أحد هنا غني، ولكن لا أحد جائع.
        هكذا تمر الأيام، وهكذا تمر السنوات.
        """,
        100,
    ),
)
STORIES = tuple(tuple((agreeing_lines(text), percent) for text, percent in story) for story in (_DAY, _LIFE))
