"""The table, and the lines below it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from resilience.cli._report import Claim, Row

__all__ = ["show"]

_SIGNS = {True: "[green]✓[/]", False: "[red]✗[/]"}


def show(console: Console, compared: list[Row], said: list[Claim], notes: list[str]) -> None:
    """Print all of it."""
    table = Table(title="One handler, bare and with five decorators")
    table.add_column("")
    for name in ("naive", "ours", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in compared:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
        naive, ours = (f"{value:,.{row.digits}f}" for value in (row.naive, row.ours))
        table.add_row(row.name, naive, ours, ratio, _SIGNS[row.better])
    console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False)
    console.print()
    console.print(
        "The article that this project began with claims, of a function of its own (✗: not seen here):", highlight=False
    )
    for claim in said:
        console.print(_line(claim), highlight=False)


def _line(claim: Claim) -> str:
    ratio = "–" if claim.ratio is None else f"{claim.ratio:.2f}×"
    line = f"  {claim.text}: ratio {ratio} {_SIGNS[claim.ratio_seen]} (claimed {claim.claimed_ratio:.2f}×)"
    if claim.level_seen is not None:
        line += f", level {claim.level:.3g} {_SIGNS[claim.level_seen]} (at most {claim.claimed_level:g})"
    return line
