"""Every Python snippet of the README and the guide runs as it is written."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resilience.testing import FaultyAPI, LambdaContext

ROOT = Path(__file__).parent.parent


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(source, "snippet", "exec"), names)
    return names


def test_the_handler_of_the_readme_answers(faulty_api: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", faulty_api.base_url)
    monkeypatch.setenv("API_KEY", faulty_api.key)

    handler = run(snippets("README.md")[0])["handler"]

    answer = handler({"messages": [{"role": "user", "content": "hi"}]}, LambdaContext())
    assert answer["statusCode"] == 200
    assert handler({"warmup": True}, LambdaContext())["warmed"] is True


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(snippets("README.md")[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_the_settings_as_they_are() -> None:
    import inspect

    import resilience

    page = (ROOT / "README.md").read_text()
    for name in ("warm", "pooled", "retry_ratelimit", "circuit_breaker", "fresh_auth"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `@{name}`"))
        told = re.findall(r"(\w+)(?==|,|$)", re.sub(r"\([^)]*\)", "", row.rsplit("`", 2)[1]))
        real = [p for p in inspect.signature(getattr(resilience, name)).parameters if p != "fn"]
        assert [t for t in told if t in real] == real


def test_the_guide_runs(faulty_api: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", faulty_api.key)
    faulty_api.require_key = False
    httpx_one, threads, fallback, listening = snippets("docs/guide.md")

    fetch = run(httpx_one.replace("api.example.com", "localhost"))["fetch"]
    assert asyncio.run(fetch(faulty_api.base_url + "/models"))["object"] == "list"
    assert faulty_api.by_key[faulty_api.key] == 1
    assert run(threads)["fetch_all"]([faulty_api.base_url + "/models"] * 5) == [200] * 5
    handler = run(fallback)["handler"]
    for _ in range(3):
        with pytest.raises(ConnectionError):
            handler({}, None)
    assert handler({}, None)["body"] == "try again later"
    run(listening)
