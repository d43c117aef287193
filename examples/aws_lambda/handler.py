"""An AI chat call on AWS Lambda: a handler as people write it, and the lines over it that keep it fast and up.

`resilience demo` runs it twice: as it stands here, and with the lines that say `resilience` taken out.
"""

import os

import resilience

# First of all: the connection is made while the imports below take their time.
resilience.prewarm(os.environ["API_URL"])

from pathlib import Path

import requests

from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm

API_URL = os.environ["API_URL"]
KEY_FILE = os.environ["API_KEY_FILE"]
API_KEY = Path(KEY_FILE).read_text().strip()
#: Seconds that an idle connection and an open circuit are left alone; short in the demo, which has a minute, not a day.
MAX_IDLE = float(os.environ.get("MAX_IDLE", "55"))
PAUSE = float(os.environ.get("PAUSE", "10"))


@warm(timeout=0.5)
@pooled(base_url=API_URL, max_idle=MAX_IDLE)
@retry_ratelimit(base=0.1)
@circuit_breaker(reset_timeout=PAUSE, max_reset_timeout=2 * PAUSE)
@fresh_auth(provider=resilience.file(KEY_FILE), idempotency_key=True)
def handler(event, context):
    response = requests.post(
        f"{API_URL}/v1/chat/completions",
        headers={"Authorization": f"Bearer {API_KEY}"},
        json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": event["question"]}]},
        timeout=3,
    )
    response.raise_for_status()
    return {"statusCode": 200, "body": response.json()["choices"][0]["message"]["content"]}
