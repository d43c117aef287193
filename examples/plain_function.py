"""A script that calls an API through `resilient`: by a function that uses requests, and by a session.

API_URL=https://api.example.com API_KEY=... python examples/plain_function.py
"""

import os

import requests

from resilience import resilient

API_URL = os.environ["API_URL"]


@resilient(base_url=API_URL, env="API_KEY")
def models():
    response = requests.get(f"{API_URL}/v1/models")
    response.raise_for_status()
    return [model["id"] for model in response.json()["data"]]


def main():
    print("models:", ", ".join(models()))

    # Outside a function: the URLs are below base_url; a key makes it safe to send the question again.
    with resilient(base_url=f"{API_URL}/v1", env="API_KEY", idempotency_key=True).session() as session:
        question = {"role": "user", "content": "Is anybody there?"}
        response = session.post("chat/completions", json={"model": "gpt-4o-mini", "messages": [question]})
        response.raise_for_status()
        print("answer:", response.json()["choices"][0]["message"]["content"])


if __name__ == "__main__":
    main()
