"""Lists of texts in files."""

from pathlib import Path

import typer


def texts_in(path: Path) -> list[str]:
    """The texts of a file, one a line, each once; what was left out is said.

    Raises:
        KanaryError: the file cannot be read, is no text, or has an empty line.
    """
    from kanary.interventions.prompt_search import read_list

    texts = read_list(path)
    once = list(dict.fromkeys(texts))
    if left := len(texts) - len(once):
        again = "1 line that stands there again is" if left == 1 else f"{left:,} lines that stand there again are"
        typer.echo(f"{path}: {again} left out.", err=True)
    return once
