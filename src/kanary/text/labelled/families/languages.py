"""Arabic, Hebrew, Spanish: stories in the language, lessons about its words, and English that quotes it."""

from types import ModuleType

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.foreign import ARABIC, ARABIC_SCRIPT, HEBREW, HEBREW_SCRIPT, SPANISH, Language, foreign
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import arabic, hebrew, spanish


def _language(name: str, language: str, script: str | None, words: ModuleType) -> None:
    """Registers the family of one language, whose sentences and words are in the module ``words``."""
    lower = name.lower()
    domain = concept(f"domain.{lower}", f"the text is in {name}, or about its speakers and its words", switch=False)
    spoken = Language(
        name=name,
        concept=language,
        script=script,
        towns=words.TOWNS,
        hosts=words.HOSTS,
        phrases=words.PHRASES,
        words=words.WORDS,
        names=(words.MEN, words.WOMEN),
        lists=words.LISTS,
        things=words.THINGS,
        stories=words.STORIES,
    )

    @family(lower)
    def write(p: Passage) -> None:
        with p.during(domain):
            foreign(p, spoken)


_language("Arabic", ARABIC, ARABIC_SCRIPT, arabic)
_language("Hebrew", HEBREW, HEBREW_SCRIPT, hebrew)
_language("Spanish", SPANISH, None, spanish)
