"""`resilience demo`: usage, its handler in two forms, the verdicts, and the real thing."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resilience.cli import main
from resilience.cli._handler_source import bare, body, decorated
from resilience.cli._report import Prices, Row, claims, rows
from resilience.cli._scenes import Course
from resilience.cli._variant import Sample

ROWS = 12


def sample(ok: bool = True, ms: float = 100.0) -> Sample:
    return Sample(ok, ms, 0.0, int(ms), None if ok else "HTTPError")


def course(ms: float, failed: int = 0, recovery: float | None = 1.0) -> Course:
    """Ten invocations in each scene, the first `failed` of which failed."""
    samples = [sample(number >= failed, ms) for number in range(10)]
    made = Course(*([samples] * 7), outage=[sample(False, ms)] * 10)
    made.upstream = {"mixed": 10, "limited": 10, "outage": 10}
    made.recovery = recovery
    return made


PRICES = Prices(memory_mb=512, gb_second=0.0000166667, request=0.0000002)


# ---- the handler


def test_the_bare_handler_is_the_decorated_one_without_anything_of_ours() -> None:
    source = decorated()

    stripped = bare(source)

    assert body(stripped) == body(source)
    imported = {
        name
        for node in ast.walk(ast.parse(stripped))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] + [getattr(node, "module", "") or ""])
    }
    assert "resilience" not in imported
    assert all(not getattr(node, "decorator_list", []) for node in ast.walk(ast.parse(stripped)))


def test_five_decorators_stand_over_the_handler() -> None:
    [handler] = [n for n in ast.parse(decorated()).body if isinstance(n, ast.FunctionDef)]
    names = [ast.unparse(d).split("(")[0] for d in handler.decorator_list]
    assert sorted(names) == ["circuit_breaker", "fresh_auth", "pooled", "retry_ratelimit", "warm"]


def test_comments_and_lines_of_others_stay_where_ours_go() -> None:
    source = (
        "# kept\nimport os\n\n# gone\nimport resilience as r\n\n@r.warm(\n    timeout=1,\n)\n@other\n"
        "def handler(e, c):\n    # r stays\n    return os.name\n"
    )
    assert bare(source) == "# kept\nimport os\n\n\n@other\ndef handler(e, c):\n    # r stays\n    return os.name\n"


# ---- the verdicts


def test_less_is_better_and_equal_is_not() -> None:
    assert Row("ms", 2, 1).better
    assert not Row("ms", 1, 1).better
    assert Row("ms", 4, 1).ratio == 0.25
    assert Row("errors", 0, 1).ratio is None


def test_each_row_compares_its_own_scene() -> None:
    naive, ours = course(200.0, failed=2, recovery=2.0), course(100.0, recovery=0.5)

    compared = {row.name.split(",")[0].split("¹")[0].strip(): row for row in rows(naive, ours, PRICES)}

    assert len(compared) == ROWS
    assert all(row.better for row in compared.values())
    assert compared["errors at 15% mixed faults"].naive == 20.0
    assert compared["upstream requests per success"].naive == pytest.approx(30 / 17)
    assert compared["upstream requests per success"].ours == pytest.approx(30 / 21)
    assert compared["billed ms per 1"].naive == pytest.approx(10 * 200 / 8 * 1000)
    # 2 s at half a GB, and ten invocations, for eight successes.
    assert compared["cost per 1"].naive == pytest.approx((2 * 0.5 * 0.0000166667 + 10 * 0.0000002) / 8 * 1000)


def test_no_recovery_at_all_is_the_longest_that_was_waited_for() -> None:
    *_, recovery = rows(course(1.0, recovery=1.0), course(1.0, recovery=None), PRICES)
    assert recovery.ours == 15.0
    assert not recovery.better


def test_a_claim_tells_ratio_and_level_apart() -> None:
    cold, warm, errors, cost = claims(rows(course(200.0, failed=2), course(100.0), PRICES))
    # 100 ms after a ping, where a naive cold start takes 200.
    assert (cold.ratio, cold.ratio_seen, cold.level_seen) == (0.5, False, True)
    assert (warm.ratio_seen, warm.level_seen) == (False, True)
    assert (errors.ratio_seen, errors.level_seen) == (True, True)
    assert cost.level_seen is None


# ---- usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["demo", "--memory-mb", "64"], "64 is not from 128 to 10240"),
        (["demo", "--gb-second-price", "-1"], "-1 is not at least 0"),
        (["demo", "--request-price", "inf"], "inf is not at least 0"),
        (["demo", "--seed", "x"], "--seed"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_extra_ends_with_2_and_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "awslambdaric" else real(name, package)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    with pytest.raises(SystemExit) as ended:
        main(["demo"])

    assert ended.value.code == 2
    assert "awslambdaric not installed: pip install 'serverless-resilience[demo]'" in capsys.readouterr().err


def test_on_windows_it_ends_with_2_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 2
    assert "needs Linux or macOS" in capsys.readouterr().err


def test_a_json_file_that_cannot_be_written_ends_it_before_it_has_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--json", str(tmp_path / "missing" / "out.json")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_the_command_line_loads_nothing_that_only_the_demo_needs() -> None:
    code = "import sys, resilience.cli; sys.exit(bool({'rich', 'requests', 'trustme'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- the real thing


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_compares_both_in_every_row(tmp_path: Path) -> None:
    out = tmp_path / "demo.json"
    command = "from resilience.cli import main; raise SystemExit(main())"

    done = subprocess.run(
        [sys.executable, "-c", command, "demo", "--quiet", "--seed", "7", "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )

    # Milliseconds are this machine's business: which of their rows are better, the exit status says.
    found = json.loads(out.read_text(encoding="utf-8"))
    assert done.returncode == (0 if found["better_in_each_row"] else 1), done.stderr
    assert len(found["rows"]) == ROWS
    assert all(row["name"] in done.stdout for row in found["rows"])
    assert found["settings"]["seed"] == 7
    better = {row["name"]: row["better"] for row in found["rows"]}
    assert all(verdict for name, verdict in better.items() if name.startswith("errors")), done.stdout
    assert found["samples"]["ours"]["recovery"] is not None
