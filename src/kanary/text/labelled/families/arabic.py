"""Arabic: stories in the language, lessons about its words, and English that quotes it."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.foreign import ARABIC, ARABIC_SCRIPT, Language, foreign
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import arabic as words

DOMAIN = concept("domain.arabic", "the text is in Arabic, or about its speakers and its words", switch=False)

LANGUAGE = Language(
    name="Arabic",
    concept=ARABIC,
    script=ARABIC_SCRIPT,
    towns=words.TOWNS,
    hosts=words.HOSTS,
    phrases=words.PHRASES,
    words=words.WORDS,
    names=(words.MEN, words.WOMEN),
    lists=words.LISTS,
    things=words.THINGS,
    stories=words.STORIES,
)


@family("arabic")
def arabic(p: Passage) -> None:
    with p.during(DOMAIN):
        foreign(p, LANGUAGE)
