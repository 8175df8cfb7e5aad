"""People are told how far something is: on a terminal by a bar, elsewhere by a line now and then, and never when quiet."""

import io
import sys

import pytest

from kanary import progress
from kanary.progress import bar, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with bar("reading", 9000, "tokens", quiet=False, done=1000) as show:
        for _ in range(12):
            clock[0] += 10
            show(500, "[$0.12]")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2,500 of 9,000 tokens  50 tokens/s  [$0.12]  2 min left",
        "reading: 4,000 of 9,000 tokens  50 tokens/s  [$0.12]  2 min left",
        "reading: 5,500 of 9,000 tokens  50 tokens/s  [$0.12]  70 s left",
        "reading: 7,000 of 9,000 tokens  50 tokens/s  [$0.12]  40 s left",
    ]


def test_what_is_soon_over_or_quiet_says_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with bar("reading", 3, "texts", quiet) as show:
            for _ in range(3):
                show(1)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_that_goes_no_further_than_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with bar("reading", 10, "texts", quiet=False) as show:
        show(7, "about half")
        show(7)
    assert "reading" in screen.getvalue()
    assert "10 of 10 texts" in screen.getvalue()
    assert "14" not in screen.getvalue().replace("[14", "")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89.4, "89 s"), (600, "10 min"), (9000, "2.5 h"), (float("inf"), "?")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
