"""A watched text on a terminal: the words as they come, and under them a line per watch with its last values."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kanary.interventions.alarms import Alarm
from kanary.interventions.threshold import enough
from kanary.interventions.traces import Trace
from kanary.interventions.watch import Watch
from kanary.interventions.writing import Piece
from kanary.scales import number

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 48
"""Values of a sparkline."""


class Threshold(NamedTuple):
    """What is shown of a watch."""

    name: str
    value: float


class Screen:
    """Follows one text."""

    def __init__(self, watches: Iterable[Threshold]) -> None:
        self.watches = tuple(watches)
        self.alarms: list[Alarm] = []
        self._text = Text()
        self._values: dict[str, deque[float]] = {watch.name: deque(maxlen=WIDTH) for watch in self.watches}

    def add(self, text: str, values: Mapping[str, float], alarms: Sequence[Alarm]) -> None:
        """One token of the prompt or of what was written; ``text`` as far as it is certain."""
        self.alarms += alarms
        self._text.append(text, "bold reverse" if alarms else "")
        for name, value in values.items():
            self._values[name].append(value)

    def __rich__(self) -> Group:
        longest = max((len(watch.name) for watch in self.watches), default=0)
        lines = [Text(self._line(watch, longest), "bold" if self._loud(watch) else "") for watch in self.watches]
        return Group(self._text, Text(), *lines)

    def _line(self, watch: Threshold, longest: int) -> str:
        values = list(self._values[watch.name])
        now = number(values[-1]) if values else "–"
        count = sum(alarm.watch == watch.name for alarm in self.alarms)
        said = f"{count} alarm{'' if count == 1 else 's'}"
        bars = sparkline(values, watch.value)
        return f"{watch.name:<{longest}} {bars:>{WIDTH}} {now:>8}  threshold {number(watch.value)}, {said}"

    def _loud(self, watch: Threshold) -> bool:
        values = self._values[watch.name]
        return bool(values) and values[-1] >= watch.value


def sparkline(values: Sequence[float], threshold: float) -> str:
    """A bar per value. The upper half of a bar's height is at or above the threshold, where that is positive."""
    top = max([*values, 2 * threshold, 1e-12])
    low = min([0.0, *values])
    heights = [(value - low) / (top - low) for value in values]
    return "".join(BARS[0 if h <= 0 else min(len(BARS) - 1, 1 + int(h * (len(BARS) - 1)))] for h in heights)


@contextmanager
def screen(watches: Iterable[Threshold], console: Console) -> Iterator[Screen]:
    """A :class:`Screen` that is drawn while the block runs, where there is a terminal, and once at its end elsewhere."""
    shown = Screen(watches)
    if console.is_terminal:
        with Live(shown, console=console, refresh_per_second=12, vertical_overflow="visible"):
            yield shown
    else:
        yield shown
        console.print(shown, soft_wrap=True)


def follow(pieces: Iterable[Piece], watches: Sequence[Watch], console: Console, prompt: str = "") -> Screen:
    """Shows pieces as they come, until the text ends."""
    with screen([Threshold(watch.name, watch.threshold) for watch in watches], console) as shown:
        shown.add(prompt, {}, ())
        for piece in pieces:
            shown.add(piece.text, piece.values, piece.alarms)
    return shown


def replay(trace: Trace, console: Console) -> Screen:
    """Shows a recorded text as it was seen."""
    watches = [Threshold(name, float(about["threshold"])) for name, about in trace.about["watches"].items()]
    raised = _by_token(trace.alarms)
    written = 0
    with screen(watches, console) as shown:
        for token in trace.tokens:
            shown.add(token["token"], token["values"], raised.get(written, ()) if token["written"] else ())
            written += token["written"]
    return shown


def _by_token(alarms: Iterable[Alarm]) -> dict[int, list[Alarm]]:
    found: dict[int, list[Alarm]] = {}
    for alarm in alarms:
        found.setdefault(alarm.at, []).append(alarm)
    return found


def described(watch: Watch) -> list[str]:
    """What is known of a watch, in lines."""
    terms = " + ".join(f"{weight:g} × {latent}" if weight != 1 else str(latent) for latent, weight in watch.weights)
    lines = [
        f"{watch.name}: feature {terms} of {watch.sae}, alarm from {number(watch.threshold)} on → {watch.on_alarm}"
    ]
    if watch.measured is not None:
        lines.append("  " + measured_line(watch.measured))
        if watch.measured.doubt is not None:
            lines.append(f"  Warning: {watch.measured.doubt}")
    if watch.at_most is not None:
        lines.append(
            "  " + _promise(watch.at_most, watch.false_alarms, watch.measured.negatives if watch.measured else 0)
        )
    if watch.latency_ms is not None:
        lines.append(
            f"  A value is known {watch.latency_ms:.1f} ms after its token was drawn (one stream, when it was made)."
        )
    return lines


def _promise(at_most: float, asked: float, negatives: int) -> str:
    kept = f"False alarms in at most {100 * at_most:.2g} % of texts like the negative ones, with a confidence of 95 %"
    if at_most <= asked:
        return f"{kept} ({100 * asked:g} % was asked for)."
    needed = enough(asked)
    if needed is None:
        more = "no number of texts can show that"
    elif negatives < needed:
        more = f"that takes {2 * needed:,} negative texts or more"
    else:
        more = "a lower --false-alarms comes closer, or another feature"
    return f"{kept}. {100 * asked:g} % was asked for: {more}."


def measured_line(found: Any) -> str:
    """AUROC, detection and false alarms with their intervals."""
    rates = [f"AUROC {_rate(found.auroc)}"]
    rates.append(f"detects {_percent(found.detection)} of {found.positives} positive texts")
    rates.append(f"false alarms in {_percent(found.false_alarms)} of {found.negatives} negative texts")
    rates.append(f"{100 * found.token_false_alarms:.2g} % of their tokens")
    return "; ".join(rates) + "."


def _rate(rate: Any) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _percent(rate: Any) -> str:
    return f"{100 * rate.value:.3g} % [{100 * rate.low:.3g}, {100 * rate.high:.3g}]"
