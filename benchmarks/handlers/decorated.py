"""The same handler, prewarmed on its first line, with the five decorators."""

# ruff: noqa: E402, I001 - prewarm stands before the heavy imports: that is its point
import os
import resilience

resilience.prewarm(os.environ["API_URL"])

import requests
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm

URL = os.environ["API_URL"] + "/v1/chat/completions"


@warm
@pooled(base_url=os.environ["API_URL"])
@circuit_breaker
@retry_ratelimit
@fresh_auth(env="API_KEY")
def handler(event, context):
    body = {"model": "small", "messages": [{"role": "user", "content": event["ask"]}]}
    r = requests.post(URL, json=body, timeout=10)
    return {"statusCode": r.status_code, "body": r.text}
