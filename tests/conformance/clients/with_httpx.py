"""Posts a JSON text twice, as programs with httpx do, and prints the second answer."""

import sys

import httpx

url, body = sys.argv[1:]
with httpx.Client(timeout=30) as client:
    for _ in range(2):
        answer = client.post(url, content=body.encode(), headers={"content-type": "application/json"})
        answer.raise_for_status()
print(answer.text, end="")
