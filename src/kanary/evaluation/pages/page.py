"""Pages that stand alone: one HTML file with its style and its pictures inside, nothing loaded, no script."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanary.scales import number

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """A template of this folder filled in; every text is escaped unless the template marks it ``|safe``.

    Templates extend ``base.html.jinja`` (head, style, security policy) and show numbers through the filters ``number``
    and ``shown``, so that what does not exist is an en dash.
    """
    return _environment().get_template(template).render(values)


def shown(value: Any) -> str:
    """A value of a config or a manifest, for people."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "–"
    return str(value)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "shown": shown}
    environment.globals["style"] = (folder / "page.css").read_text(encoding="utf-8")
    return environment
