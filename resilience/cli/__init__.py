"""The command line: `resilience demo`. Only `argparse` is loaded until a command is run."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence

__all__ = ["main"]

#: Exit statuses of `demo`, beside 0: ours was better in each row.
NOT_BETTER, USAGE, INTERRUPTED = 1, 2, 130
_EXTRA = ("rich", "trustme", "awslambdaric")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the process's exit status. Usage errors exit at once, with status 2."""
    parser = _parser()
    options = parser.parse_args(argv)
    if problem := _missing():
        parser.exit(USAGE, f"{parser.prog}: {problem}\n")
    # rich, and all that it shows.
    from resilience.cli.demo import demo

    try:
        return demo(options)
    except KeyboardInterrupt:
        return INTERRUPTED


def _missing() -> str | None:
    """Why the demo cannot run here, if it cannot."""
    if sys.platform == "win32":
        return "the demo runs AWS Lambda's own runtime client, which needs Linux or macOS"
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: pip install 'serverless-resilience[demo]'"
    return None


def _parser() -> argparse.ArgumentParser:
    from resilience import __version__

    parser = argparse.ArgumentParser(prog="resilience", description="Keep serverless Python fast and up.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="run one Lambda handler bare and decorated, and compare",
        description="Run one handler under AWS Lambda's runtime client, bare and with the five decorators, against an "
        "API on this machine that fails as real ones do; about a minute. Exit status 0: the decorated one was better "
        "in each row; 1: not in each; 2: it could not be run.",
    )
    demo.add_argument("--seed", type=int, default=1, help="of the faults (default %(default)s)")
    demo.add_argument("--json", metavar="FILE", help="write settings, samples and verdicts to FILE")
    demo.add_argument("--quiet", action="store_true", help="no progress bar")
    demo.add_argument(
        "--memory-mb",
        type=_number(int, 128, 10240),
        default=512,
        metavar="MB",
        help="of the function (default %(default)s)",
    )
    demo.add_argument(
        "--gb-second-price",
        type=_number(float, 0.0, math.inf),
        default=0.0000166667,
        metavar="USD",
        help="price of a GB-second (default %(default)s: AWS Lambda pricing, us-east-1, x86)",
    )
    demo.add_argument(
        "--request-price",
        type=_number(float, 0.0, math.inf),
        default=0.0000002,
        metavar="USD",
        help="price of an invocation (default %(default)s: AWS Lambda pricing, us-east-1)",
    )
    return parser


def _number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """A number from `least` to `most`, which may be infinite; then it need only be finite."""

    def number(text: str) -> float:
        value = kind(text)
        if not (least <= value <= most and math.isfinite(value)):
            allowed = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text} is not {allowed}")
        return value

    return number
