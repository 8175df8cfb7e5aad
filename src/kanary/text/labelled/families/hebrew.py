"""Hebrew: stories in the language, lessons about its words, and English that quotes it."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.foreign import HEBREW, HEBREW_SCRIPT, Language, foreign
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import hebrew as words

DOMAIN = concept("domain.hebrew", "the text is in Hebrew, or about its speakers and its words", switch=False)

LANGUAGE = Language(
    name="Hebrew",
    concept=HEBREW,
    script=HEBREW_SCRIPT,
    towns=words.TOWNS,
    hosts=words.HOSTS,
    phrases=words.PHRASES,
    words=words.WORDS,
    names=(words.MEN, words.WOMEN),
    lists=words.LISTS,
    things=words.THINGS,
    stories=words.STORIES,
)


@family("hebrew")
def hebrew(p: Passage) -> None:
    with p.during(DOMAIN):
        foreign(p, LANGUAGE)
