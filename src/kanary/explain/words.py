"""A rule in words: the sentence that a person reads, and a title of three words at most."""

from collections.abc import Iterable, Sequence

from kanary.explain.patterns import EARLIER, Condition, Pattern, PatternRule
from kanary.explain.vocabulary import KINDS, kind_of

SURE = 0.5
"""A pattern is told as what the latent fires on if it is right more often than not."""
_SHOWN, _TOKENS, _LESS, _LOGITS = 5, 6, 3, 5
_CONTINUED = "…"
_GAPS = {1: "", 2: "two tokens ", 3: "three tokens "}
_WORTH = 0.03
"""Of the firing must be explained by what is told after the first."""


def sentence(rule: PatternRule, positive_logits: Sequence[str]) -> str:
    """What a rule says, the part that explains most first, with how much of the firing it covers."""
    sure = [pattern for pattern in rule.patterns if pattern.chance >= SURE]
    less = [pattern for pattern in rule.patterns if pattern.chance < SURE]
    covered = sum(pattern.covers for pattern in sure)
    if sure:
        phrases, more = _told(rule, sure, _SHOWN)
        rest = f"; and {more} rarer pattern{'s' * (more > 1)}" if more else ""
        parts = [f"Fires {phrases}{rest}" + (f" ({covered:.0%} of its firing)." if covered > 0 else ".")]
        if less:
            parts.append(f"At times {_told(rule, less, _LESS)[0]}.")
    elif less:
        parts = [f"No clear pattern; at times {_told(rule, less, _SHOWN)[0]}."]
    else:
        parts = ["No pattern in its tokens or in what stands before them."]
    if tokens := _visible(positive_logits):
        parts.append(f"Makes {_listed([quoted(token) for token in tokens[:_LOGITS]])} likelier.")
    return " ".join(parts)


def title(rule: PatternRule) -> str | None:
    """Three words at most, of the patterns with one context that explain most together; None where none is sure."""
    sure = [pattern for pattern in rule.patterns if pattern.chance >= SURE]
    if not sure:
        return None
    context, group = _by_context(sure)[0]
    here = [c for p in group for c in p.conditions if c not in context]
    if not context:
        if here[0].what == "kind":
            return " ".join(KINDS[here[0].value].split()[:3])
        names = list(dict.fromkeys(_shown(_name(rule, c)) for c in here if c.what != "kind"))
        words = [name for name in names if any(map(str.isalnum, name))]
        return ", ".join(words[:3]) if words else " ".join(names[:3])
    condition = min(context, key=lambda c: (c.what != "concept", abs(c.where)))
    if condition.what == "concept":
        return " ".join(_name(rule, condition).replace(".", " ").replace("_", " ").split()[:3])
    if condition.what == "first":
        return "start of document"
    trigger = next((_shown(_name(rule, c)) for c in here if c.what != "kind"), "")
    beside = _shown(_name(rule, condition)) if trigger and condition.what != "kind" else _bare(rule, condition)
    return _title_with(condition, beside, trigger)


def _title_with(context: Condition, name: str, trigger: str) -> str:
    """What stands before or after the ``trigger``, if there is one, and the trigger."""
    before = "before" if context.where == -1 else "after"
    if not trigger:
        return f"{before} {name}"
    if context.what == "kind":
        found = f"{trigger} {before} {name}"
        return found if len(found.split()) <= 3 else trigger
    if context.where == -1:
        return f"{trigger} {name}"
    return f"{name} {trigger}" if context.where == 1 else f"{name} … {trigger}"


def quoted(token: str) -> str:
    """A token between quotation marks, spaces at its ends left out, line breaks and other odd characters shown."""
    return f"“{_shown(token)}”"


def _shown(token: str) -> str:
    bare = token.strip(" ") or token
    if not bare.strip(" "):
        return "␣" * len(bare)
    return "".join("↵" if c == "\n" else c if c.isprintable() else f"⟨{ord(c):x}⟩" for c in bare)


def _told(rule: PatternRule, patterns: Sequence[Pattern], most: int) -> tuple[str, int]:
    """Phrases that begin with "on", "after", "before" or "where", most covered first; the least are only counted."""
    groups = _by_context(patterns)
    worth = [
        (context, group)
        for i, (context, group) in enumerate(groups[:most])
        if i == 0 or sum(pattern.covers for pattern in group) >= _WORTH
    ]
    phrases = _merged(_phrase(rule, context, group) for context, group in worth)
    return "; ".join(phrases), len(patterns) - sum(len(group) for _, group in worth)


def _by_context(patterns: Sequence[Pattern]) -> list[tuple[tuple[Condition, ...], list[Pattern]]]:
    """Patterns with the same context together, the group that covers most first, and so within it."""
    groups: dict[tuple[Condition, ...], list[Pattern]] = {}
    for pattern in sorted(patterns, key=lambda pattern: -pattern.covers):
        groups.setdefault(_context(pattern), []).append(pattern)
    return sorted(groups.items(), key=lambda item: -sum(pattern.covers for pattern in item[1]))


def _merged(phrases: Iterable[tuple[str, str]]) -> list[str]:
    """Phrases that differ in their last word alone become one: “on “the” after “of” or “in””."""
    ends: dict[str, list[str]] = {}
    for begin, end in phrases:
        ends.setdefault(begin, []).append(end)
    return [" ".join(filter(None, (begin, _listed(list(dict.fromkeys(each)), "or")))) for begin, each in ends.items()]


def _phrase(rule: PatternRule, context: tuple[Condition, ...], group: Sequence[Pattern]) -> tuple[str, str]:
    """How it begins and how it ends; nothing at the end where there is no context."""
    triggers = [c for pattern in group for c in pattern.conditions if c not in context]
    kinds = [KINDS[c.value] for c in triggers if c.what == "kind"]
    names = list(dict.fromkeys(quoted(_name(rule, c)) for c in triggers if c.what != "kind"))
    shown = [*kinds, *names][:_TOKENS]
    words = f"on {_listed(shown, more=len(kinds) + len(names) - len(shown))}" if shown else ""
    begin, end = _around(rule, context)
    return " ".join(filter(None, (words, begin))), end


def _around(rule: PatternRule, context: Sequence[Condition]) -> tuple[str, str]:
    """“after” “a b”, “two tokens after” “a”, “with an earlier” “x”."""
    near = sorted((c for c in context if 0 < c.where < EARLIER), key=lambda c: -c.where)
    if near:
        kinds = any(c.what == "kind" for c in near)
        said = " ".join(_name_or_kind(rule, c) for c in near) if kinds else f"“{_joined(rule, near)}”"
        return f"{_GAPS[near[-1].where]}after", said
    for c in context:  # there is one
        if c.what == "concept":
            return "where the corpus is labelled", f"“{_name(rule, c)}”"
        if c.what == "first":
            return "at the start of a document", ""
        return ("before", _name_or_kind(rule, c)) if c.where == -1 else ("with an earlier", quoted(_name(rule, c)))
    return "", ""


def _joined(rule: PatternRule, near: Sequence[Condition]) -> str:
    """Neighbours as they stand in a text; a piece of a word close to what it continues."""
    text = _shown(_name(rule, near[0]))
    for name in (_shown(_name(rule, condition)) for condition in near[1:]):
        text += name.removeprefix(_CONTINUED) if name.startswith(_CONTINUED) else f" {name}"
    return text


def _context(pattern: Pattern) -> tuple[Condition, ...]:
    """Its conditions but for the one on the token itself."""
    return tuple(sorted(c for c in pattern.conditions if c.where != 0 or c.what in ("concept", "first")))


def _name(rule: PatternRule, condition: Condition) -> str:
    if condition.what == "concept":
        assert rule.marks is not None
        return rule.marks.names[condition.value]
    if condition.what == "token":
        return whole(rule.vocabulary.texts[condition.value])
    piece = rule.vocabulary.is_piece(condition.value)
    return _CONTINUED * piece + rule.vocabulary.names[condition.value]


def whole(token: str) -> str:
    """A token as a reader takes it: one that continues a word begins with an ellipsis."""
    return _CONTINUED * (kind_of(token) == "pieces of words" and token[0].isalpha()) + token


def _name_or_kind(rule: PatternRule, condition: Condition) -> str:
    return KINDS[condition.value] if condition.what == "kind" else quoted(_name(rule, condition))


def _bare(rule: PatternRule, condition: Condition) -> str:
    """For a title: a kind by its last word, a space or a line break by its name."""
    if condition.what == "kind":
        return KINDS[condition.value].split()[-1]
    name = _name(rule, condition)
    if not name.strip():
        return "line break" if "\n" in name else "spaces"
    return _shown(name)


def _listed(items: Sequence[str], last: str = "and", more: int = 0) -> str:
    if more:
        return f"{', '.join(items)} and {more} more"
    return ", ".join(items[:-1]) + f" {last} {items[-1]}" if len(items) > 1 else "".join(items)


def _visible(tokens: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(whole(token).strip() for token in tokens if token.strip()))
