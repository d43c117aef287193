"""`python -m benchmarks [--only GROUP] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Figure, render

#: Group: module, function. Each is imported when it is run: none should warm up what another measures.
GROUPS = {
    "imports": ("imports", "run"),
    "success": ("hot_path", "success"),
    "rejection": ("hot_path", "rejection"),
    "parallel": ("hot_path", "parallel"),
    "connections": ("connections", "run"),
    "cold-start": ("cold_start", "run"),
}


def main() -> int:
    """Measure, print the table, and say by the exit status whether every figure was reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=import_module("benchmarks").__doc__)
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="this group alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer samples: seconds rather than minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    figures: list[Figure] = []
    for group in options.only or GROUPS:
        module, name = GROUPS[group]
        run: Callable[[bool], list[Figure]] = getattr(import_module(f"benchmarks.{module}"), name)
        figures += run(options.quick)
    where = f"CPython {platform.python_version()}, {platform.machine()}"
    print(f"{where}; the least of many samples, ours and the peers' in turn\n")
    print(render(figures))
    if options.json:
        options.json.write_text(json.dumps([figure.as_dict() for figure in figures], indent=2) + "\n")
    missed = [figure.name for figure in figures if figure.verdict == "MISS"]
    print(f"\n{len(missed)} missed" + (f": {', '.join(dict.fromkeys(missed))}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
