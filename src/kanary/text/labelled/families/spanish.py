"""Spanish: stories in the language, lessons about its words, and English that quotes it."""

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.foreign import SPANISH, Language, foreign
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import spanish as words

DOMAIN = concept("domain.spanish", "the text is in Spanish, or about its speakers and its words", switch=False)

LANGUAGE = Language(
    name="Spanish",
    concept=SPANISH,
    script=None,
    towns=words.TOWNS,
    hosts=words.HOSTS,
    phrases=words.PHRASES,
    words=words.WORDS,
    names=(words.MEN, words.WOMEN),
    lists=words.LISTS,
    things=words.THINGS,
    stories=words.STORIES,
)


@family("spanish")
def spanish(p: Passage) -> None:
    with p.during(DOMAIN):
        foreign(p, LANGUAGE)
