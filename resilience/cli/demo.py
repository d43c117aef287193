"""`resilience demo`: one handler under AWS Lambda's runtime client, bare and decorated, against an API that fails."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from resilience.cli import NOT_BETTER, USAGE
from resilience.cli._handler_source import bare, decorated
from resilience.cli._report import Prices, as_json, claims, notes, rows
from resilience.cli._scenes import SCENES, STEPS, Course
from resilience.cli._table import show
from resilience.cli._variant import variant

__all__ = ["demo", "run"]


def demo(options: argparse.Namespace) -> int:
    """Run it, show the table, write the JSON; the exit status."""
    prices = Prices(options.memory_mb, options.gb_second_price, options.request_price)
    try:
        # Now, rather than after a minute's work.
        out = Path(options.json).open("w", encoding="utf-8") if options.json else None  # noqa: SIM115
    except OSError as error:
        print(f"resilience demo: --json {options.json}: {error.strerror}", file=sys.stderr)
        return USAGE
    with out or ExitStack():
        naive, ours = run(options.seed, options.memory_mb, quiet=options.quiet)
        compared = rows(naive, ours, prices)
        # Piped, it is as wide as it needs to be.
        console = Console(width=None if sys.stdout.isatty() else 110)
        show(console, compared, claims(compared), notes(naive, ours, prices))
        if out:
            json.dump(as_json(naive, ours, prices, options.seed), out, indent=2)
    return 0 if all(row.better for row in compared) else NOT_BETTER


def run(seed: int, memory_mb: int, *, quiet: bool = False, log: TextIO = sys.stderr) -> tuple[Course, Course]:
    """Take both through all scenes; what each went through, the bare one first."""
    source = decorated()
    with TemporaryDirectory(prefix="resilience-demo-") as folder, ExitStack() as running:
        pair = []
        for name, text in (("naive", bare(source)), ("ours", source)):
            made = variant(name, text, Path(folder), seed=seed, memory_mb=memory_mb)
            pair.append((running.enter_context(made), Course()))
        with _progress(quiet, log) as progress:
            for said, scene in SCENES.items():
                task = progress.add_task(said, total=STEPS[said])
                scene(pair, partial(progress.advance, task))
                progress.update(task, total=1, completed=1)
        return pair[0][1], pair[1][1]


@contextmanager
def _progress(quiet: bool, log: TextIO) -> Iterator[Progress]:
    """A bar for each scene, on stderr, so that stdout holds the table alone; none where nobody looks."""
    console = Console(file=log)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        yield progress
