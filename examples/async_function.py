"""An `async def` that calls an API by httpx: retried, guarded and given a fresh key, whatever client it uses.

API_URL=https://api.example.com API_KEY=... python examples/async_function.py
"""

import asyncio
import os
from urllib.parse import urlsplit

import httpx

from resilience import current, resilient

API_URL = os.environ["API_URL"]


@resilient(env="API_KEY", hosts=urlsplit(API_URL).hostname, pooled=False)
async def ask(client, question):
    url = f"{API_URL}/v1/chat/completions"
    response = await client.post(
        url,
        # Asked for in each attempt: a key that has been replaced is read anew.
        headers=current().auth_headers(url),
        json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": question}]},
    )
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"]


async def main():
    async with httpx.AsyncClient(timeout=10) as client:
        questions = ("Who?", "What?", "When?")
        for answer in await asyncio.gather(*(ask(client, question) for question in questions)):
            print("answer:", answer)


if __name__ == "__main__":
    asyncio.run(main())
