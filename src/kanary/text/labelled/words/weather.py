"""Sentences of the weather reports: for every topic without a verb, in the past, in the present and in the future."""

from kanary.text.labelled.shared import Line, lines

Forms = tuple[tuple[Line, ...], tuple[Line, ...], tuple[Line, ...], tuple[Line, ...]]
"""Of one topic: without a verb, past, present, future."""

TOWNS = [
    "Bern",
    "Lyon",
    "Turin",
    "Oslo",
    "Porto",
    "Ghent",
    "Split",
    "Cork",
    "Malmö",
    "Basel",
    "Graz",
    "Brno",
    "Riga",
    "Vigo",
    "Bath",
    "York",
    "Leeds",
    "Nantes",
    "Parma",
    "Siena",
    "Bergen",
    "Utrecht",
    "Cádiz",
    "Trieste",
    "Gdansk",
    "Lucerne",
    "Galway",
    "Aarhus",
    "Toledo",
    "Tartu",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
HOURS = ["six", "seven", "eight", "nine", "ten", "eleven", "one", "two", "three", "four", "five"]
SIDES = ["north", "south", "east", "west", "north-east", "north-west", "south-east", "south-west"]
AREAS = (
    "the hills above town",
    "the lower valley",
    "the river plain",
    "the eastern suburbs",
    "the lakeside villages",
    "the northern passes",
    "the harbour district",
    "the vineyards to the south",
    "the marshes",
    "the forest belt",
)

OPENINGS = lines(
    "Weather for {town} and surroundings, {day}, {now} o'clock.",
    "{day} in {town}: the view from the observatory.",
    "{town}, {day}. Bulletin number {issue}.",
    "Bulletin {issue} for {town}, {day} edition.",
    "From the weather desk in {town}, {day}, {now} o'clock:",
    "Met office, {town} branch: notes for {day}.",
    "Number {issue} of our weather letters, from {town}.",
    "{^area} and {town}: {day}'s figures and forecasts.",
    "Good {part} from {town}. Here, in short, the report for {day}.",
    "{day}'s report for {town} and {area}.",
    "Radio {town}, the {day} bulletin.",
    "Notes of the weather station at {town}, {day}, {now} o'clock.",
    "For {town} and {area}, the report of {day}:",
)

SKY: Forms = (
    lines(
        "Mostly {sky}, with thin cloud over {area}.",
        "Sky {sky} from one horizon to the other.",
        "Fog along the river, a {sky} sky elsewhere.",
        "Visibility moderate; the sky {sky}.",
    ),
    lines(
        "[sg The day] [past began] under a {sky} sky, and [sg fog] [past clung] to {area} until breakfast.",
        "At sunrise [pl the clouds] [past hung] low over {area}.",
        "Before dawn [sg the sky] [past was] {sky} and [pl the streets] [past lay] silent.",
        "[pl Early risers] in {area} [past woke] to a {sky} sky.",
    ),
    lines(
        "[sg The sky] over {area} [now is] {sky} at the moment.",
        "Right now [pl ragged clouds] [now are drifting] across {area}.",
        "As [pl the bells] [now strike] {now}, [sg the sky] [now looks] {sky}.",
        "[pl Patches of mist] still [now linger] above {area}.",
    ),
    lines(
        "By tomorrow [sg the sky] [will will turn] {sky}, first over {area}.",
        "Later on [pl high clouds] [will will spread] across {area}.",
        "[sg Cloud] [will is going to thicken] from the {side} in the course of the night.",
        "After sunset [pl the clouds] [will will break up] over {area}.",
    ),
)

TEMPERATURE_TEXTS = (
    (
        "Temperature at the airport: [@ {deg}].",
        "Thermometer reading on the bridge: [@ {deg}], in the shade.",
        "[@ {^deg}] at the station, a little different in {area}.",
        "In the old town, [@ {deg}].",
    ),
    (
        "[sg The thermometer] at the station [past showed] [@ {deg}] shortly after daybreak.",
        "At first light [pl observers] [past measured] [@ {deg}] in {area}.",
        "[sg The first reading] of the day [past was] [@ {deg}].",
        "Overnight [pl our instruments] [past recorded] [@ {deg}].",
    ),
    (
        "[sg The thermometer] in the market square [now reads] [@ {deg}].",
        "At present [sg it] [now is] [@ {deg}] in the shade.",
        "[pl Sensors] in {area} [now report] [@ {deg}].",
        "[sg The air] by the river [now stands] at [@ {deg}].",
    ),
    (
        "Tonight [sg the temperature] [will will settle] around [@ {deg}].",
        "Tomorrow [sg {town}] [will will see] [@ {deg}].",
        "[pl The models] [will will be tested] later today: [@ {deg}] by nightfall, according to the latest run.",
        "Towards evening [sg the thermometer] [will is going to show] [@ {deg}].",
    ),
)

NO_TEMPERATURE: Forms = (
    lines(
        "Temperatures close to the average of the month.",
        "No great change in temperature.",
        "No temperature reading today because of a broken sensor.",
    ),
    lines(
        "[pl Temperatures] [past were] close to the average of the season.",
        "[sg The temperature] hardly [past changed] during the night.",
        "[sg A broken sensor] [past left] the station without a temperature reading.",
    ),
    lines(
        "[pl Temperatures] [now are] normal for the time of year.",
        "[sg The new thermometer] [now is] still in its box, so [pl readers] [now have] to guess.",
        "[sg The temperature] [now keeps] to its usual course.",
    ),
    lines(
        "[pl Temperatures] [will will change] little before the end of the week.",
        "[sg The temperature] [will will stay] near its average.",
        "[pl Readings] in degrees [will will be] available again after the repair.",
    ),
)

RAIN_LINES: Forms = (
    lines(
        "[weather.rain Heavy showers over {area}].",
        "[weather.rain Drizzle at times, steady rain later].",
        "[weather.rain Thunderstorms with a downpour or two], mainly in {area}.",
        "[weather.rain A wet spell for {town}, with puddles on every pavement].",
    ),
    lines(
        "[weather.rain [sg Rain] [past fell] over {area} between midnight and dawn].",
        "[weather.rain [sg A cloudburst] [past soaked] {area} before breakfast].",
        "[weather.rain [pl Heavy drops] [past drummed] on the roofs of {town}], and [pl the gutters] [past ran] over.",
        "[weather.rain [pl Showers] [past swept] in from the {side} at first light].",
    ),
    lines(
        "[weather.rain [sg It] [now is pouring] in {area}], and [pl umbrellas] [now fill] the high street.",
        "[weather.rain [sg Drizzle] [now dampens] {town}] as [pl we] [now write].",
        "[weather.rain [pl Showers] [now are crossing] {area}].",
        "[weather.rain [sg A steady rain] [now taps] at the windows of the station].",
    ),
    lines(
        "[weather.rain [sg Rain] [will will set in] from the {side} before midnight].",
        "[weather.rain [pl Thunderstorms] [will are going to drench] {area} in the evening].",
        "[pl Commuters] [will will need] an umbrella: [weather.rain showers by nightfall].",
        "[weather.rain [sg A band of drizzle] [will will reach] {town} after dark].",
    ),
)
DRY_LINES: Forms = (
    lines(
        "No rain over {area}.",
        "Dry, without so much as a drop in the gauge.",
        "No showers, no thunder.",
        "A dry spell for {town}, with dust on every pavement.",
    ),
    lines(
        "[sg The rain gauge] [past stayed] empty from midnight to dawn.",
        "[sg The shower] of yesterday's forecast never [past came].",
        "[pl The gutters] of {town} [past were] dry, and [sg nobody] [past opened] an umbrella.",
        "[sg It] [past did not rain] in {area}.",
    ),
    lines(
        "[sg It] [now is] dry in {area}, and [pl umbrellas] [now stay] in their stands.",
        "[sg No rain] [now dampens] {town}.",
        "[sg The rain radar] [now shows] nothing over {area}.",
        "[pl The pavements] [now are] dry in every street.",
    ),
    lines(
        "[sg It] [will will stay] dry until midnight.",
        "[pl The showers] over the sea [will will not reach] {area}.",
        "[pl Commuters] [will will not need] an umbrella.",
        "[sg The dry spell] [will is going to last] well into the week.",
    ),
)

WIND_LINES: Forms = (
    lines(
        "Wind from the {side}, [weather.wind=kmh {kmh} kilometres per hour].",
        "Gusts of up to [weather.wind=kmh {kmh} kilometres per hour] along the coast road.",
        "In exposed places, a wind of [weather.wind=kmh {kmh} km/h].",
    ),
    lines(
        "[sg A gust] of [weather.wind=kmh {kmh} km/h] [past hit] {area} in the small hours.",
        "During the night [sg the wind] [past blew] from the {side} at [weather.wind=kmh {kmh} kilometres per hour].",
        "[sg The anemometer] [past counted] [weather.wind=kmh {kmh} kilometres per hour] at its peak.",
    ),
    lines(
        "[sg The wind] [now comes] from the {side} at [weather.wind=kmh {kmh} kilometres per hour].",
        "Out at the lighthouse [pl gusts] [now reach] [weather.wind=kmh {kmh} km/h].",
        "[pl Sailors] [now report] [weather.wind=kmh {kmh} kilometres per hour] from the {side}.",
    ),
    lines(
        "[sg The wind] [will will shift] to the {side}, with a mean speed of [weather.wind=kmh {kmh} kilometres per hour].",
        "[pl Gusts] of [weather.wind=kmh {kmh} km/h] [will will shake] the scaffolding on the cathedral.",
        "Around midnight [sg the wind] [will will reach] [weather.wind=kmh {kmh} kilometres per hour].",
    ),
)
NO_WIND: Forms = (
    lines("Wind from the {side}.", "Variable winds, mostly from the {side}.", "A breeze from the {side} on the lake."),
    lines(
        "[sg The wind] [past came] from the {side} for most of the night.",
        "[sg The weathercock] on the town hall [past pointed] to the {side}.",
        "[pl The winds] [past turned] twice before dawn.",
    ),
    lines(
        "[sg A breeze] from the {side} [now moves] the flags on the bridge.",
        "[pl The sailing boats] on the lake [now have] the wind from the {side}.",
        "[sg The wind] [now varies] from street to street.",
    ),
    lines(
        "[sg The wind] [will will turn] to the {side} during the night.",
        "By morning [pl the flags] [will will point] the other way.",
        "[sg A change of wind] [will will come] from the {side}.",
    ),
)

LIFE: Forms = (
    lines(
        "Pollen count moderate, mainly birch and hazel.",
        "Roads open, ferries on schedule.",
        "Sunrise at {rise}, sunset at {set}.",
        "Air pressure {hpa} hectopascals, humidity {humid} per cent.",
    ),
    lines(
        "[sg Air pressure] [past rose] to {hpa0} hectopascals.",
        "[sg The sun] [past rose] at {rise}.",
        "[pl Two ferries] [past left] the harbour behind schedule.",
        "[sg The humidity] [past reached] {humid} per cent by daybreak.",
        "[pl Gardeners] [past had] their hands full this week.",
    ),
    lines(
        "[sg The barometer] [now stands] at {hpa} hectopascals.",
        "[sg The sun] [now sets] at {set} these days.",
        "[pl The mountain roads] [now are] open, and [pl the cable cars] [now run] as usual.",
        "[pl Walkers] in {area} [now share] the paths with grazing sheep.",
        "[sg Humidity] [now is] {humid} per cent.",
    ),
    lines(
        "[sg The sun] [will will set] at {set}.",
        "[pl Road crews] [will will close] the pass for an inspection.",
        "[sg Air pressure] [will will rise] to {hpa2} hectopascals.",
        "[pl Farmers] in {area} [will are going to move] their cattle.",
        "[sg The next bulletin] [will will appear] at {next} o'clock.",
    ),
)

WATER: Forms = (
    lines(
        "Water level of the river: {issue} centimetres at the old gauge.",
        "For bathers: waves of half a metre, red flags at two beaches.",
        "On the lake, a slight swell; no warning for small craft.",
        "Reservoirs {full} per cent full.",
    ),
    lines(
        "[sg The river] [past rose] to {issue} centimetres at the old gauge.",
        "[pl Two fishing boats] [past stayed] in port because of the swell.",
        "[pl Divers] [past inspected] the sluice gates at daybreak.",
        "[sg The tide] [past carried] driftwood and seaweed onto the promenade.",
    ),
    lines(
        "[sg The old gauge] [now marks] {issue} centimetres.",
        "[pl The reservoirs] [now are] {full} per cent full.",
        "[pl Small waves] [now slap] against the quay.",
        "[sg The swell] on the lake [now is] slight, and [pl rowers] [now train] close to the shore.",
    ),
    lines(
        "[sg The river] [will will stand] at {issue} centimetres by the end of the week.",
        "[pl Engineers] [will will open] two sluice gates at the weir.",
        "[sg The next high tide] [will will come] shortly before midnight.",
        "[pl The lifeguards] [will are going to hoist] a yellow flag.",
    ),
)

ELSEWHERE: Forms = (
    lines(
        "Elsewhere: snow on the highest summits, sand in the air far to the {side}.",
        "In the rest of the country, much the same picture.",
        "On the map, a high over the ocean and a shallow low to the {side}.",
        "Meanwhile, in {other}: hail the size of peas.",
    ),
    lines(
        "In {other}, [pl hailstones] [past broke] several windows.",
        "Far to the {side}, [sg a storm] [past tore] tiles from the roofs.",
        "[sg {other}] [past reported] a halo around the moon.",
        "[sg Lightning] [past struck] a church tower in {other} without hurting anyone.",
    ),
    lines(
        "[sg A high] over the ocean [now steers] the currents of the whole continent.",
        "In {other}, [pl people] [now are sweeping] sand from their doorsteps.",
        "[sg A front] [now divides] the country from {other} to the coast.",
        "[pl Satellite pictures] [now show] a spiral of cloud to the {side}.",
    ),
    lines(
        "[sg A front] from the {side} [will will cross] the country by the weekend.",
        "[sg {other}] [will will get] a day of yellow, sandy light.",
        "[pl Our colleagues] in {other} [will will measure] the ozone with a balloon.",
        "[sg The high] over the ocean [will is going to weaken] slowly.",
    ),
)

CLOSINGS = lines(
    "Next bulletin at {next} o'clock.",
    "More from the weather desk after the news.",
    "Report: the observatory of {town}.",
    "Until then, all maps and charts on our pages.",
    "Readings by courtesy of the volunteers in {area}.",
    "Please report hail, frost and fallen trees to the station.",
    "To be continued on the evening programme.",
)
