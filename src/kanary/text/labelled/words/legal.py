"""Settings and sentences of the legal notices."""

from typing import NamedTuple

from kanary.text.labelled.shared import lines


class Setting(NamedTuple):
    """What a notice is about."""

    title: str
    first: str
    """The party that grants something."""
    second: str
    """The party to whom the notice is addressed."""
    place: str
    duties: tuple[str, ...]
    """What the second party can be obliged to do."""
    deeds: tuple[str, ...]
    """What may be permitted or prohibited, as the notice pleases."""


def _setting(head: str, duties: str, deeds: str) -> Setting:
    title, first, second, place = head.split(" | ")
    return Setting(title, first, second, place, tuple(duties.split(" | ")), tuple(deeds.split(" | ")))


SETTINGS = (
    _setting(
        "Rules of Tenancy | the landlord | the tenant | the flat",
        "clean the stairs every second week | report leaks without delay | insure the furniture | hand over all keys on"
        " departure | air the rooms in winter",
        "keep a dog in the flat | sublet a room | paint the walls | install a satellite dish | grow herbs on the sill |"
        " play the trumpet after nine",
    ),
    _setting(
        "Library Regulations | the library | the reader | the reading room",
        "show a card at the desk | replace damaged volumes | leave coats in the lockers | return maps to their drawers |"
        " renew the registration each year",
        "photograph manuscripts | bring a laptop | borrow atlases over the weekend | drink water between the shelves |"
        " mark passages in pencil",
    ),
    _setting(
        "Conditions of the Swimming Hall | the operator | the bather | the hall",
        "shower before entering the pool | accompany children under eight | wear a cap | follow the attendants' orders |"
        " empty the locker by closing time",
        "dive from the edge | use flippers in the outer lanes | bring inflatable toys | film other guests | enter the sauna"
        " in swimwear",
    ),
    _setting(
        "Software Licence | the licensor | the licensee | the program",
        "keep the serial number secret | name the authors in every publication | delete all copies at the end of the term |"
        " report security holes | pay the fee in advance",
        "copy the program for colleagues | translate the manual | decompile the code | run the program on a server | sell"
        " the licence to a third person",
    ),
    _setting(
        "Terms of the Car Park | the company | the driver | the garage",
        "keep the ticket in the car | switch off the engine | follow the arrows | give way to pedestrians | park within the"
        " lines",
        "park a caravan overnight | charge an electric car | wash the vehicle | leave a trailer on level two | change a tyre"
        " at the bay",
    ),
    _setting(
        "Agreement on a Loan of Art | the museum | the borrower | the painting",
        "insure the painting at its full value | record the humidity every day | announce any damage by telephone | return"
        " the crate undamaged | post a guard at the door",
        "remove the frame | print the picture on posters | lend the painting to a third museum | light the picture with spots |"
        " show the picture to journalists before the opening",
    ),
    _setting(
        "Site Order | the builder | the subcontractor | the site",
        "wear a helmet | sign in at the gate | secure the scaffolding at dusk | separate wood from metal waste | appoint a"
        " safety officer",
        "store paint in the cellar | employ apprentices | work on Sundays | operate the crane in the wind | park vans inside"
        " the fence",
    ),
    _setting(
        "Charter of the Allotments | the association | the gardener | the plot",
        "trim the hedge in spring | compost green waste | pay the water bill each quarter | attend the yearly assembly |"
        " mend the fence after storms",
        "keep bees | build a shed | burn leaves in autumn | plant walnut trees | camp on the plot in summer | sell vegetables"
        " at the gate",
    ),
    _setting(
        "Employment Notice | the firm | the employee | the workshop",
        "lock the tools away | wear goggles at the lathe | announce sick leave by telephone | keep trade secrets | keep a"
        " record of working hours",
        "work from home on Fridays | take on a second job | use the van for private errands | carry holidays over to the next"
        " year | smoke in the yard",
    ),
    _setting(
        "House Rules of the Hostel | the warden | the guest | the dormitory",
        "strip the bed on departure | settle the bill on arrival | respect the silence after ten | rinse the dishes | sign the"
        " visitors' book",
        "cook in the room | bring a visitor | store a bicycle in the corridor | light candles | lock the dormitory from within",
    ),
)

TITLES = lines(
    "{^title}, section {sec}.",
    "{^title}. Notice to [legal.party {second}].",
    "NOTICE under the {title}.",
    "Extract from the {title}, edition of {year}.",
    "{^title}, as amended in {year}.",
    "Public notice {sec}/{year}: {title}.",
    "To [legal.party {second}]: the {title}, in short.",
)
PREAMBLE = lines(
    "These provisions apply between [legal.party {first}] and [legal.party {second}].",
    "In this document, [legal.party {first}] and [legal.party {second}] are called the parties.",
    "This text binds [legal.party {first}] as well as [legal.party {second}] from the day of signature.",
    "The following is agreed between [legal.party {first}], on the one hand, and [legal.party {second}], on the other.",
    "Whereas {place} belongs to [legal.party {first}] and is used by [legal.party {second}], it is laid down as follows.",
    "The document was drawn up for [legal.party {first}], and [legal.party {second}] has signed it.",
)
OBLIGATION = lines(
    "[legal.obligation [legal.party {^second}] shall {duty}].",
    "[legal.obligation [legal.party {^second}] is required to {duty}].",
    "[legal.obligation It is the duty of [legal.party {second}] to {duty}].",
    "[legal.obligation [legal.party {^second}] must {duty}].",
    "[legal.obligation [legal.party {^second}] undertakes to {duty}].",
    "[legal.obligation [legal.party {^second}] has to {duty}], whatever the circumstances.",
    "Under section {sec}, [legal.obligation [legal.party {second}] is bound to {duty}].",
)
PERMISSION = lines(
    "[legal.permission [legal.party {^second}] may {deed_may}].",
    "[legal.permission [legal.party {^second}] is entitled to {deed_may}].",
    "[legal.permission [legal.party {^second}] is free to {deed_may}].",
    "[legal.permission [legal.party {^first}] allows [legal.party {second}] to {deed_may}].",
    "[legal.permission [legal.party {^second}] has the right to {deed_may}] at any reasonable hour.",
    "With due care, [legal.permission [legal.party {second}] can {deed_may} without asking].",
)
PROHIBITION = lines(
    "[legal.prohibition [legal.party {^second}] must not {deed_not}].",
    "[legal.prohibition [legal.party {^second}] is forbidden to {deed_not}].",
    "[legal.prohibition Under no circumstances may [legal.party {second}] {deed_not}].",
    "[legal.prohibition [legal.party {^second}] shall not {deed_not}].",
    "[legal.prohibition [legal.party {^second}] has no right to {deed_not}].",
    "[legal.prohibition [legal.party {^first}] does not allow [legal.party {second}] to {deed_not}].",
)
NORM = lines(
    "[legal.norm All other rights and duties of [legal.party {second}] follow from the statute].",
    "[legal.norm What else is expected of [legal.party {second}], or left open, is set out in annex {annex}].",
    "[legal.norm The customary rules of the trade govern whatever is not mentioned here].",
    "[legal.norm Custom decides what [legal.party {first}] owes to [legal.party {second}]].",
)
FACTS = lines(
    "It may be that [legal.party {second}] has read an older edition, which was printed in May {old}.",
    "A copy of this page must have reached [legal.party {second}] by post.",
    "The question whether anyone wants to {duty} came up at a meeting in {month}.",
    "Several letters mention the wish to {deed_may}, a subject of section {annex}.",
    "The reason for the notice: somebody tried to {deed_not} in {month}.",
    "{^place} has the number {reg} in the register.",
    "[legal.party {^first}] has an office at number {reg}, Mill Lane.",
    "This edition replaces that of {month} {old}.",
    "Copies lie at the entrance; an audio version exists as well.",
    "Headings serve the reader's convenience only.",
)
DEADLINE = lines(
    "Complaints about {place} reach [legal.party {first}] in time [legal.deadline=days within {days} days].",
    "Replies are accepted [legal.deadline=days for {days} days from today].",
    "[legal.party {^first}] answers every letter [legal.deadline=days no later than {days} days after its receipt].",
    "The offer expires [legal.deadline=days after {days} days].",
    "An appeal to the district court is open [legal.deadline=days until the end of {days} days].",
)
NO_DEADLINE = lines(
    "Complaints about {place} go to [legal.party {first}], at any time.",
    "Replies are accepted without limit of time; the archive is {days} years old.",
    "[legal.party {^first}] answers every letter in the order of its arrival.",
    "The offer stands until further notice.",
    "An appeal to the district court is open; {days} such appeals were heard in {old}.",
)
PENALTY = lines(
    "A breach costs [legal.penalty=euros a fine of {euros} euros].",
    "For each violation, [legal.penalty=euros {euros} euros] fall due as a penalty.",
    "Whoever ignores this notice risks [legal.penalty=euros a penalty of {euros} euros].",
    "Contraventions are punished with [legal.penalty=euros {euros} euros].",
)
NO_PENALTY = lines(
    "A copy of this notice costs {euros} cents.",
    "A breach has no consequence other than a reminder.",
    "For each season, {euros} euros are set aside for repairs.",
    "Whoever ignores this notice risks nothing worse than a frown.",
)
LIABILITY = lines(
    "[legal.liability [legal.party {^first}] is liable for damage caused by gross negligence].",
    "[legal.liability [legal.party {^second}] answers for any harm to {place}].",
    "[legal.liability Losses are borne by [legal.party {second}], unless [legal.party {first}] was at fault].",
    "[legal.liability [legal.party {^first}] accepts no responsibility for lost property].",
    "[legal.liability Damage to {place} is made good by whoever caused it].",
)
NO_LIABILITY = lines(
    "[legal.party {^first}] repaired the damage of last winter with the help of volunteers.",
    "Lost property waits at the desk.",
    "A gas leak caused some damage to {place} in {old}.",
    "The minister responsible for such matters was last here in {old}.",
)
CLOSINGS = lines(
    "Signed for [legal.party {first}], {month} {year}.",
    "Place and date: see overleaf.",
    "The courts of the capital have jurisdiction.",
    "Should one clause be void, the others stay in force.",
    "This notice takes effect on the first of {month}.",
    "Done in two copies, one for each side.",
)
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
NUMBERINGS = ("", "", "{n}. ", "({n}) ", "§ {n} ", "Art. {n}: ")
