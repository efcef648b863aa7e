"""Posts a JSON text twice, as programs with aiohttp do that heed the environment, and prints the second answer."""

import asyncio
import sys

import aiohttp


async def main(url: str, body: str) -> None:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(trust_env=True, raise_for_status=True, timeout=timeout) as session:
        for _ in range(2):
            async with session.post(url, data=body.encode(), headers={"content-type": "application/json"}) as answer:
                text = await answer.text()
    print(text, end="")


asyncio.run(main(*sys.argv[1:]))
