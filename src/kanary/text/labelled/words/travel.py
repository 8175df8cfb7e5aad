"""Places, landmarks and sentences of the travel texts."""

from kanary.text.labelled.shared import lines

REAL = tuple(
    tuple(row.split(" | "))
    for row in (
        "Paris | the Seine | the Eiffel Tower | Notre-Dame | the Pont Neuf",
        "Rome | the Tiber | the Colosseum | Santa Maria Maggiore | the Trevi Fountain",
        "Istanbul | the Bosphorus | the Galata Tower | the Blue Mosque | the Grand Bazaar",
        "Cairo | the Nile | the Cairo Tower | the Al-Azhar Mosque | Tahrir Square",
        "Edinburgh | Arthur's Seat | Edinburgh Castle | St Giles' Cathedral | the Royal Mile",
        "Rio de Janeiro | Sugarloaf Mountain | the Maracanã Stadium | the Candelária Church | the Selarón Steps",
        "Cape Town | Table Mountain | the Castle of Good Hope | St George's Cathedral | Long Street",
        "Kyoto | the Kamo River | Nijo Castle | the Kinkaku-ji temple | the Nishiki Market",
        "Prague | the Vltava | Prague Castle | the Old-New Synagogue | the Charles Bridge",
        "Barcelona | the hill of Montjuïc | Casa Batlló | the Sagrada Família | La Rambla",
        "Athens | Mount Lycabettus | the Zappeion | the Temple of Hephaestus | Monastiraki Square",
        "Jerusalem | the Mount of Olives | the Tower of David | the Western Wall | the Mahane Yehuda Market",
        "Sydney | Bondi Beach | the Opera House | St Mary's Cathedral | the Harbour Bridge",
        "Salzburg | the Salzach | Hohensalzburg Fortress | Nonnberg Abbey | the Makart Bridge",
        "London | the Thames | Buckingham Palace | St Paul's Cathedral | Trafalgar Square",
        "Budapest | the Danube | the Hungarian Parliament | the Dohány Street Synagogue | the Chain Bridge",
        "Marrakesh | the Atlas Mountains | the Bahia Palace | the Koutoubia Mosque | the Jemaa el-Fnaa square",
        "Tokyo | Mount Fuji | the Tokyo Skytree | the Meiji Shrine | the Shibuya Crossing",
    )
)
"""Towns with, in this order, a natural landmark, a building, a place of worship and a landmark of another sort."""
HEADS = [
    "Kar",
    "Vel",
    "Mor",
    "Tas",
    "Ilm",
    "Bren",
    "Dol",
    "Sar",
    "Ost",
    "Fen",
    "Gal",
    "Hir",
    "Nev",
    "Pra",
    "Ruk",
    "Zan",
    "Lor",
    "Eld",
    "Qua",
    "Wim",
]
TAILS = [
    "vessa",
    "mouth",
    "lund",
    "oria",
    "dale",
    "avik",
    "enza",
    "stead",
    "umbra",
    "holm",
    "itza",
    "grove",
    "ador",
    "wick",
    "elle",
    "ona",
]
NATURAL = (
    "Lake {}",
    "the {} Falls",
    "Mount {}",
    "the {} Gorge",
    "the Bay of {}",
    "the {} Caves",
    "the {} Glacier",
    "the Cliffs of {}",
)
BUILDING = (
    "{} Castle",
    "the {} Tower",
    "the Palace of {}",
    "{} Town Hall",
    "the {} Opera",
    "the {} Lighthouse",
    "Fort {}",
)
RELIGIOUS = (
    "{} Abbey",
    "the Temple of {}",
    "the {} Mosque",
    "{} Cathedral",
    "the {} Synagogue",
    "the Shrine of {}",
    "the {} Pagoda",
)
OTHER = ("the {} Bridge", "the Fountain of {}", "{} Square", "the {} Market", "the {} Arch", "the Garden of {}")

THINGS = (
    "the hotel breakfast",
    "the guided tour",
    "the bus from the airport",
    "the night train",
    "the ferry crossing",
    "the street carnival",
    "the museum café",
    "the puppet show",
    "the folk concert",
    "the local fish soup",
    "the boarding house",
    "the boat trip",
)
TITLES = lines(
    "Postcard from {town}.",
    "{town}, day {day}.",
    "Travel notes: {town}.",
    "A week in {town}, page {day}.",
    "{town} in {day} days.",
    "To {town} by train.",
    "On the road, part {day}: {town}.",
    "Dear {friend}, a line from {town}.",
)
GUIDE_OPENINGS = lines(
    "{town} [now lies] {hours} hours by train from the town of our last issue and [now has] more bakeries than banks.",
    "Most visitors [now reach] {town} in the evening, when the lamps along the quay [now are] already lit.",
    "Whoever [now comes] to {town} by bus [now gets] off at the eastern gate.",
    "The streets of {town} [now form] a grid, and every second corner [now has] a bakery.",
    "{town} [now keeps] its shutters closed until ten.",
)
DIARY_OPENINGS = lines(
    "We [past arrived] in {town} after {hours} hours on the train.",
    "The bus [past dropped] us at the eastern gate of {town} shortly before noon.",
    "{town} [past was] still asleep when our train [past pulled] in.",
    "I [past came] to {town} with one suitcase and no map.",
    "After {hours} hours on the road, {town} [past appeared] behind the last bend.",
)
GUIDE = (
    lines(
        "[landmark.natural+@ {^natural}] [now marks] the edge of the town.",
        "On clear days the balconies [now face] [landmark.natural+@ {natural}].",
        "A footpath of {hours} kilometres [now leads] to [landmark.natural+@ {natural}].",
        "Painters [now set] up their easels within sight of [landmark.natural+@ {natural}].",
        "Geologists [now meet] once a year within sight of [landmark.natural+@ {natural}].",
    ),
    lines(
        "[landmark.building+@ {^building}] [now opens] at nine; tickets [now cost] {price} coins.",
        "From the station a tram [now runs] to [landmark.building+@ {building}].",
        "A staircase of {steps} steps [now winds] upwards inside [landmark.building+@ {building}].",
        "[landmark.building+@ {^building}] [now appears] on every second stamp.",
        "School classes [now queue] outside [landmark.building+@ {building}] on weekdays.",
    ),
    lines(
        "At [landmark.religious+@ {religious}], visitors [now cover] their shoulders.",
        "[landmark.religious+@ {^religious}] [now draws] pilgrims from distant provinces.",
        "Candles and incense [now are] for sale in the lane behind [landmark.religious+@ {religious}].",
        "Restorers [now work] on [landmark.religious+@ {religious}] from May to September.",
        "The oldest stones of the town [now belong] to [landmark.religious+@ {religious}].",
    ),
    lines(
        "Street musicians [now gather] at [landmark.any+@ {other}].",
        "All roads [now end] at [landmark.any+@ {other}].",
        "[landmark.any+@ {^other}] [now divides] the upper town from the lower.",
        "At dusk the fruit sellers [now leave] [landmark.any+@ {other}].",
    ),
)
DIARY = (
    lines(
        "In the morning we [past hiked] towards [landmark.natural+@ {natural}] with sandwiches in our pockets.",
        "From our window we [past saw] [landmark.natural+@ {natural}] under a layer of mist.",
        "[landmark.natural+@ {^natural}] [past was] less than an hour away, so we [past went] there on foot.",
        "A fisherman [past told] us the legend of [landmark.natural+@ {natural}].",
        "We [past spent] the afternoon drawing [landmark.natural+@ {natural}] in our notebooks.",
    ),
    lines(
        "We [past climbed] the {steps} steps of [landmark.building+@ {building}].",
        "[landmark.building+@ {^building}] [past stood] wrapped in scaffolding.",
        "A guard at [landmark.building+@ {building}] [past counted] us twice.",
        "At noon we [past met] our guide in front of [landmark.building+@ {building}].",
        "The queue outside [landmark.building+@ {building}] [past reached] around two corners.",
    ),
    lines(
        "A choir [past was rehearsing] in [landmark.religious+@ {religious}].",
        "At [landmark.religious+@ {religious}] we [past took] off our hats.",
        "The caretaker of [landmark.religious+@ {religious}] [past showed] us a key as long as his arm.",
        "We [past sat] in the shade of [landmark.religious+@ {religious}] until the bells or the birds [past sent] us on.",
        "Somebody [past was sweeping] the steps of [landmark.religious+@ {religious}].",
    ),
    lines(
        "We [past crossed] the town by way of [landmark.any+@ {other}].",
        "At [landmark.any+@ {other}] a juggler [past dropped] three of his five oranges.",
        "I [past bought] stamps next to [landmark.any+@ {other}].",
        "Our tram [past stopped] at [landmark.any+@ {other}] for a quarter of an hour.",
    ),
)
GUIDE_NEUTRAL = lines(
    "A tower of suitcases [now waits] at every hotel door.",
    "Shops [now close] between one and four.",
    "The tourist office [now lends] bicycles for {price} coins a day.",
    "Children [now build] castles of sand near the campsite.",
    "Tap water [now comes] from the mountains in iron pipes.",
    "The local dialect [now has] four words for wind.",
    "Couples [now book] church weddings a year ahead.",
    "A lake of traffic [now fills] the ring road at five.",
    "Banks [now change] money until noon.",
    "Laundry [now hangs] across the lanes.",
)
DIARY_NEUTRAL = lines(
    "A tower of suitcases [past blocked] the corridor.",
    "The shops [past were] closed between one and four.",
    "We [past hired] two bicycles for {price} coins a day.",
    "Children [past were building] castles of sand behind the campsite.",
    "The waiter [past drew] a map on a napkin.",
    "Somebody at the next table [past spoke] of a church wedding.",
    "A mountain of laundry [past waited] for us at the hostel.",
    "We [past changed] money and [past wrote] {day} postcards.",
    "A cat [past followed] us as far as the post office.",
    "I [past lost] a glove on the tram and [past found] it again.",
)
PRAISE = (
    lines(
        "{^thing} [now is] [pos a pure delight].",
        "{^thing} [now is] [pos not bad at all]: [pos even locals [now love] it].",
        "{^thing} [now deserves] [pos all the praise it [now gets]].",
        "Few things [now are] as [pos charming] as {thing}.",
        "[pos We [now recommend] {thing} with all our hearts].",
        "{^thing} [pos [now leaves] nothing to be desired].",
    ),
    lines(
        "{^thing} [past was] [pos a pure delight].",
        "{^thing} [past was] [pos not bad at all]; [pos we [past enjoyed] every minute].",
        "{^thing} [past was] [pos worth the whole journey].",
        "We [pos [past loved] {thing}].",
        "Nothing [past was] as [pos charming] as {thing}.",
        "{^thing} [past turned] out to be [pos anything but a disappointment].",
    ),
)
BLAME = (
    lines(
        "{^thing} [now is] [neg a waste of money].",
        "{^thing} [now is] [neg far from pleasant]: [neg even locals [now avoid] it].",
        "{^thing} [neg [now is] not worth its price, let alone its fame].",
        "Few things [now are] as [neg dreary] as {thing}.",
        "[neg We [now warn] everyone against {thing}].",
        "{^thing} [neg [now leaves] everything to be desired].",
    ),
    lines(
        "{^thing} [past was] [neg a waste of money].",
        "{^thing} [past was] [neg not good at all]; [neg we [past regretted] every minute].",
        "{^thing} [past was] [neg an insult to the tired traveller].",
        "We [neg [past hated] {thing}].",
        "Nothing [past was] as [neg dreary] as {thing}.",
        "{^thing} [past turned] out to be [neg anything but a pleasure].",
    ),
)
PLAIN = (
    (
        lines(
            "{^thing} [now costs] {fee} coins for each person.",
            "Few people [now ask] about {thing} before noon.",
            "Next in our series: {thing}.",
        ),
        lines(
            "{^thing} [now is described] on page {page} of the handbook.",
            "Hours and prices: {thing}, see page {page}.",
            "A leaflet about {thing} [now exists] in nine languages.",
        ),
    ),
    (
        lines(
            "{^thing} [past cost] {fee} coins for each of us.",
            "Next on the list [past was] {thing}.",
            "Somebody [past asked] us the way to the ticket office for {thing}.",
        ),
        lines(
            "{^thing} [past was described] on page {page} of the handbook.",
            "A note about {thing} [past hung] on the wall.",
            "The porter [past gave] us a leaflet about {thing}.",
        ),
    ),
)
FUTURE = (
    lines(
        "From next spring a new tram line [will will link] the suburbs with the centre.",
        "The tourist office [will is going to move] to the station.",
        "By the end of the decade, {town} [will will have] a new railway museum.",
        "Prices [will will rise] in June.",
    ),
    lines(
        "Tomorrow we [will will take] the early bus to the coast.",
        "I [will will write] again from the next town.",
        "On Sunday we [will are going to pack] our trunks.",
        "You [will will find] the photographs in the next letter.",
    ),
)
FRIENDS = [
    "Agnes",
    "Bruno",
    "Celia",
    "Dora",
    "Edmund",
    "Flora",
    "Gilbert",
    "Hazel",
    "Ivo",
    "Judith",
    "Klaus",
    "Linda",
    "Mabel",
    "Ned",
    "Olive",
    "Percy",
]
DIARY_LINKS = ("Later, ", "The next day ", "On the way back, ", "After lunch ", "In the evening ", "To our surprise, ")
GUIDE_LINKS = ("Incidentally, ", "As a rule, ", "These days, ", "By old custom, ", "In summer, ", "Out of season, ")
