"""A handler as people write it."""

import os

import requests

URL = os.environ["API_URL"] + "/v1/chat/completions"
KEY = os.environ["API_KEY"]


def handler(event, context):
    body = {"model": "small", "messages": [{"role": "user", "content": event["ask"]}]}
    r = requests.post(URL, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
    return {"statusCode": r.status_code, "body": r.text}
