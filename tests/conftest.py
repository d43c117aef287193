"""What all tests share: nothing that one leaves behind reaches another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    from resilience.testing import reset

    reset()
    yield
    reset()
