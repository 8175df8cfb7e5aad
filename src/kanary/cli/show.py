"""What several commands print."""

from typing import Any


def print_metrics(metrics: dict[str, Any]) -> None:
    from rich.console import Console

    from kanary.info import metrics_table

    if metrics.get("saes"):
        console = Console(highlight=False)
        console.width = max(console.width, 110 if console.is_terminal else 160)  # an interval cut short says nothing
        console.print(metrics_table(metrics))
