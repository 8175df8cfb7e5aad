"""What people and explainers say of features: texts, scores and lists, in one sqlite file that outlives the index.

Every call opens the file, does one transaction and closes it, so that threads and processes may share it.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kanary.errors import KanaryError

LONGEST = 10_000
"""Characters of a text."""
_WAIT = 10.0  # seconds, for another process that is writing
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS human (latent INTEGER PRIMARY KEY, text TEXT NOT NULL, edited TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS explanations (latent INTEGER NOT NULL, author TEXT NOT NULL, text TEXT NOT NULL, "
    "title TEXT, made TEXT NOT NULL, scores TEXT NOT NULL, PRIMARY KEY (latent, author))",
    "CREATE TABLE IF NOT EXISTS lists (name TEXT PRIMARY KEY, latents TEXT NOT NULL)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, latent UNINDEXED, author UNINDEXED)",
)
_HUMAN = ""  # the author of people's own text in the table of words


class Labels:
    """The labels of one SAE's latents. The file is made when something is first written."""

    def __init__(self, path: Path, digest: str, d_sae: int) -> None:
        """
        Args:
            digest: of the SAE (:meth:`kanary.sae.SAE.digest`): labels of another one are refused.
        """
        self.path, self.digest, self.d_sae = path, digest, d_sae

    def human(self, latent: int) -> dict[str, Any] | None:
        """``{"text", "edited"}`` as people wrote it last, or None."""
        rows = self._read("SELECT text, edited FROM human WHERE latent = ?", latent)
        return {"text": rows[0][0], "edited": rows[0][1]} if rows else None

    def set_human(self, latent: int, text: str) -> dict[str, Any] | None:
        """Replaces what people say of a latent; an empty text deletes it. Returns what :meth:`human` then does.

        Raises:
            KanaryError: no such latent, or a text that is too long.
        """
        self._check(latent, text)
        text = text.strip()
        with self._writing() as file:
            file.execute("DELETE FROM human WHERE latent = ?", (latent,))
            file.execute("DELETE FROM words WHERE latent = ? AND author = ?", (latent, _HUMAN))
            if not text:
                return None
            edited = _now()
            file.execute("INSERT INTO human VALUES (?, ?, ?)", (latent, text, edited))
            file.execute("INSERT INTO words VALUES (?, ?, ?)", (text, latent, _HUMAN))
        return {"text": text, "edited": edited}

    def explanations(self, latent: int) -> list[dict[str, Any]]:
        """``{"text", "title", "by", "scores", "made"}``, the newest first."""
        query = (
            "SELECT text, title, author, scores, made FROM explanations WHERE latent = ? ORDER BY made DESC, rowid DESC"
        )
        return [
            {"text": text, "title": title, "by": by, "scores": json.loads(scores), "made": made}
            for text, title, by, scores, made in self._read(query, latent)
        ]

    def add_explanation(
        self,
        latent: int,
        text: str,
        by: str,
        scores: Sequence[Mapping[str, Any]] = (),
        *,
        title: str | None = None,
    ) -> None:
        """Adds an explanation, in the place of an earlier one by the same explainer.

        Args:
            by: what explained it: a model, a rule.
            scores: ``{"name", "value", "low", "high", "n"}`` each, and "chance" if it is known what guessing scores.

        Raises:
            KanaryError: no such latent, no text, or one that is too long.
        """
        self.add_explanations([(latent, text, by, scores, title)])

    def add_explanations(
        self, explanations: Iterable[tuple[int, str, str, Sequence[Mapping[str, Any]], str | None]]
    ) -> None:
        """Many at once: latent, text, by, scores and title of each, as for :meth:`add_explanation`; all or none."""
        rows = []
        for latent, text, by, scores, title in explanations:
            self._check(latent, text)
            if not text.strip() or not by:
                raise KanaryError(f"An explanation of latent {latent} needs a text and what it is by.")
            stored = json.dumps([dict(score) for score in scores], allow_nan=False)
            rows.append((latent, by, text.strip(), title, _now(), stored))
        with self._writing() as file:
            file.executemany("INSERT OR REPLACE INTO explanations VALUES (?, ?, ?, ?, ?, ?)", rows)
            file.executemany("DELETE FROM words WHERE latent = ? AND author = ?", [row[:2] for row in rows])
            words = [(f"{title or ''} {text}".strip(), latent, by) for latent, by, text, title, _, _ in rows]
            file.executemany("INSERT INTO words VALUES (?, ?, ?)", words)

    def titles(self) -> dict[int, str]:
        """Latent -> the short text that lists show: people's own before the newest explanation's."""
        query = "SELECT latent, coalesce(title, text) FROM explanations ORDER BY made, rowid"
        return dict(self._read(query)) | dict(self._read("SELECT latent, text FROM human"))

    def scores(self) -> dict[int, list[dict[str, Any]]]:
        """Latent -> scores of its newest explanation."""
        query = "SELECT latent, scores FROM explanations ORDER BY made, rowid"
        return {latent: json.loads(scores) for latent, scores in self._read(query)}

    def search(self, words: str, limit: int = 1000) -> list[int]:
        """Latents whose texts have all of ``words`` (or words that begin so), the best match first."""
        terms = [word.replace('"', '""') for word in words.replace("\0", " ").split()]
        if not terms:
            return []
        query = "SELECT latent FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        found = self._read(query, " ".join(f'"{term}"*' for term in terms), limit)
        return list(dict.fromkeys(int(latent) for (latent,) in found))

    def lists(self) -> dict[str, list[int]]:
        """Name -> latents, by name."""
        return {
            name: json.loads(latents) for name, latents in self._read("SELECT name, latents FROM lists ORDER BY name")
        }

    def save_list(self, name: str, latents: Sequence[int]) -> None:
        """Raises :class:`KanaryError` for a list without a name, or a latent that there is not."""
        if not name.strip() or len(name) > 200:
            raise KanaryError(f"A list needs a name of 1 to 200 characters, got {len(name)}.")
        for latent in latents:
            self._check(latent)
        with self._writing() as file:
            file.execute("INSERT OR REPLACE INTO lists VALUES (?, ?)", (name, json.dumps([*map(int, latents)])))

    def delete_list(self, name: str) -> None:
        """Raises :class:`KanaryError` if there is none of this name."""
        with self._writing() as file:
            if not file.execute("DELETE FROM lists WHERE name = ?", (name,)).rowcount:
                raise KanaryError(f"There is no list {name!r}.")

    def _check(self, latent: int, text: str = "") -> None:
        if not 0 <= latent < self.d_sae:
            raise KanaryError(f"There is no latent {latent}: this SAE has 0 to {self.d_sae - 1:,}.")
        if len(text) > LONGEST:
            raise KanaryError(f"A text of {len(text):,} characters is too long: {LONGEST:,} at most.")

    def _read(self, query: str, *values: Any) -> list[Any]:
        if not self.path.exists():
            return []
        with self._open() as file:
            file.execute("BEGIN")  # so that all is read as of one moment
            if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
                return []  # somebody is about to write the first label
            self._refuse_other(file)
            return file.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                file.execute(statement)
            file.execute("INSERT OR IGNORE INTO about VALUES ('sae', ?)", (self.digest,))
            self._refuse_other(file)
            yield file
            file.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            file = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            try:
                yield file
            finally:
                file.close()  # what is not committed is undone
        except sqlite3.Error as error:
            raise KanaryError(
                f"{self.path} cannot be used: {error}. Restore it from a copy, or move it away."
            ) from error

    def _refuse_other(self, file: sqlite3.Connection) -> None:
        row = file.execute("SELECT value FROM about WHERE key = 'sae'").fetchone()
        if row is not None and row[0] != self.digest:
            raise KanaryError(
                f"{self.path} has the labels of another SAE ({row[0]}) than this one ({self.digest}). Move it away."
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
