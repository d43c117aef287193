"""The stand-in for the context of Lambda."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from resilience.testing import FakeClock, LambdaContext


def test_it_has_the_attributes_of_the_real_one() -> None:
    from awslambdaric.lambda_context import LambdaContext as RealContext

    real = RealContext("id", None, None, 0, "arn:aws:lambda:us-east-1:123456789012:function:f")
    ours = LambdaContext()
    wanted = {name for name in vars(real) if not name.startswith("_")} | {"get_remaining_time_in_millis"}
    assert wanted <= set(dir(ours))
    assert isinstance(ours.memory_limit_in_mb, str)


def test_its_request_id_is_a_new_uuid() -> None:
    one, other = LambdaContext().aws_request_id, LambdaContext().aws_request_id
    assert one != other
    assert str(uuid.UUID(one)) == one


def test_attributes_may_be_given() -> None:
    context = LambdaContext(function_name="shop", aws_request_id="r-1", invoked_function_arn="arn", client_context={})
    assert (context.function_name, context.aws_request_id, context.client_context) == ("shop", "r-1", {})
    assert context.invoked_function_arn == "arn"


def test_arn_and_log_group_follow_the_name() -> None:
    context = LambdaContext(function_name="shop")
    assert context.invoked_function_arn.endswith(":function:shop")
    assert context.log_group_name == "/aws/lambda/shop"


def test_an_attribute_that_the_real_one_has_not_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="request_id='r'"):
        LambdaContext(request_id="r")


def test_its_time_is_counted_down_by_the_wall_clock() -> None:
    with FakeClock() as clock:
        context = LambdaContext(remaining=3.0)
        assert context.get_remaining_time_in_millis() == 3000
        clock.advance_monotonic(100)
        assert context.get_remaining_time_in_millis() == 3000
        clock.advance(1.25)
        assert context.get_remaining_time_in_millis() == 1750
        clock.advance(100)
        assert context.get_remaining_time_in_millis() == 0


@pytest.mark.parametrize("remaining", [-0.1, 900.1, "30", None])
def test_a_time_that_lambda_cannot_have_is_named(remaining: Any) -> None:
    with pytest.raises(ValueError, match=f"remaining={remaining!r}"):
        LambdaContext(remaining=remaining)
