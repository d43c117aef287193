"""The examples run as they are written, against an API that fails now and then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resilience.testing import Fault, FaultyAPI, LambdaRuntime

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: No proxy of this machine's has a part in it.
DIRECT = {"NO_PROXY": "localhost", "no_proxy": "localhost"}
ANSWER = "You said: Is anybody there?"

pytestmark = pytest.mark.slow


def run(example: str, api: FaultyAPI) -> str:
    """What the example prints; the fixture's variables name the API's certificate."""
    env = {**os.environ, "API_URL": api.url, "API_KEY": api.key, **DIRECT}
    done = subprocess.run([sys.executable, EXAMPLES / example], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plain_function_prints_models_and_an_answer_although_a_request_of_each_fails(
    faulty_api: FaultyAPI,
) -> None:
    # The question's answer is lost after it was processed, which its idempotency key makes up for.
    faulty_api.script([Fault.status(503), None, Fault.reset_after_reading()])

    printed = run("plain_function.py", faulty_api)

    assert printed.splitlines()[0].startswith("models: ")
    assert printed.splitlines()[1] == f"answer: {ANSWER}"
    assert faulty_api.processed == 1
    assert faulty_api.replays == 1


def test_the_async_function_prints_an_answer_to_each_question_although_some_are_rate_limited(
    faulty_api: FaultyAPI,
) -> None:
    faulty_api.script([Fault.rate_limited("retry-after-ms", 0.05), Fault.status(503)])

    printed = run("async_function.py", faulty_api)

    assert printed.splitlines() == ["answer: You said: Who?", "answer: You said: What?", "answer: You said: When?"]
    assert faulty_api.count(status=200) == 3


def test_the_lambda_handler_answers_under_the_runtime_client_and_survives_a_fault_and_a_rotated_key(
    faulty_api: FaultyAPI, lambda_runtime: Callable[..., LambdaRuntime], tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(faulty_api.key)
    runtime = lambda_runtime(
        "handler.handler",
        root=EXAMPLES / "aws_lambda",
        env={"API_URL": faulty_api.url, "API_KEY_FILE": str(key_file), **DIRECT},
        init_timeout=60,
    )
    question = {"question": "Is anybody there?"}
    expected = {"statusCode": 200, "body": ANSWER}

    assert runtime.invoke(question).payload == expected

    faulty_api.script([Fault.status(503)])
    key_file.write_text(faulty_api.rotate())
    assert runtime.invoke(question).payload == expected
    assert faulty_api.count(status=401) == 0
