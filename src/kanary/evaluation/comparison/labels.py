"""Short names: families by what sets them apart, and settings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from kanary.evaluation.comparison.families import COMPARED, Family, Options, count

NAMES = {"model": "model_name", "text": "text_name", "test_text": "test_name"}
PLACE = ("model", "test_text", "test_part", "window")


def labels(families: Iterable[Family]) -> dict[Family, str]:
    """A short name for each, which spells out only what differs between the families of SAEs."""
    families = sorted(set(families), key=Family.order)
    saes = [f for f in families if not f.control]
    differing = {f.name for f in COMPARED if len({getattr(family, f.name) for family in saes}) > 1}
    names = {family: _words(family, differing, saes) for family in families if not family.control}
    for family in families:
        if family.control.endswith(" twin"):
            names[family] = f"{family.control} of {names[replace(family, control='')]}"
        elif family.control:
            place = [_shown(family, name, saes) for name in ("site", *PLACE) if name in differing]
            names[family] = " · ".join([family.control, *place])
    return names


def _words(family: Family, differing: set[str], saes: Sequence[Family]) -> str:
    words = [family.kind]
    for part in ("encoder", "decoder"):
        alike = [other for other in saes if getattr(other, part) == getattr(family, part)]
        options = list(_differing(family, alike, f"{part}_options"))
        if options or part in differing:
            words.append(" ".join([part, getattr(family, part), *options]))
    words += _differing(family, [other for other in saes if other.kind == family.kind], "options")
    words += _differing(family, saes, "recipe")
    rest = ("d_sae", "site", "tokens_trained", "text", *PLACE)
    return " · ".join(words + [_shown(family, name, saes) for name in rest if name in differing])


def _differing(family: Family, alike: Sequence[Family], which: str) -> Iterator[str]:
    """``name=value`` for each of these options of the family in which families that have it ``alike`` differ."""
    each = [dict(getattr(other, which)) for other in alike]
    own = dict(getattr(family, which))
    for name in sorted({name for options in each for name in options}):
        if len({options.get(name) for options in each}) > 1:
            value = own.get(name, "–").strip('"')
            yield f"{name}={'default' if value == 'null' else value}"


def _shown(family: Family, name: str, saes: Sequence[Family]) -> str:
    """One field in words."""
    value = getattr(family, name)
    if name in NAMES:
        attribute = NAMES[name]
        shown = getattr(family, attribute)
        same_name = {getattr(other, name) for other in saes if getattr(other, attribute) == shown}
        shown = f"{shown} ({value[:8]})" if len(same_name) > 1 else shown
        return {"text": "from ", "test_text": "on "}.get(name, "") + shown
    words = {"d_sae": "{:,} latents", "window": "windows of {:,}", "test_part": "{} part"}
    if name == "tokens_trained":
        return f"{count(value)} tokens"
    return words.get(name, "{}").format(value) if value is not None else f"no {name}"


def setting_label(setting: Options) -> str:
    """``k=32``; of a penalty that is steered to a target only the target."""
    given = {name: value for name, value in setting if value != "null"}
    if "target_l0" in given:
        given = {"target_l0": given["target_l0"]}
    return ", ".join(f"{name}={value.removesuffix('.0')}" for name, value in given.items())
