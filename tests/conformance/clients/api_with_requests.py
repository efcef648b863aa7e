"""Seals and opens through the HTTP API at a URL with a key, as programs with requests do."""

import sys

import requests

base, key = sys.argv[1:3]
with requests.Session() as s:
    s.headers["Authorization"] = "Bearer " + key
    record = {"card": {"number": "4111 1111", "cvc": 123}, "ok": True, "none": None, "list": [1.5, "é"]}
    sealed = s.post(base + "/v1/seal", params={"role": "card"}, json=record)
    assert sealed.status_code == 200, sealed.text
    sealed = sealed.json()
    assert sealed["card"]["cvc"].startswith("e3v1.card.n."), sealed
    opened = s.post(base + "/v1/open", params=[("roles", "card")], json=sealed)
    assert opened.json() == record, opened.text
    chosen = s.post(base + "/v1/seal", params=[("select", "$.card.number:card"), ("select", "$.list[*]:item")], json=record).json()
    assert chosen["ok"] is True and chosen["card"]["cvc"] == 123 and chosen["list"][1].startswith("e3v1.item."), chosen
    problem = requests.post(base + "/v1/open", json=sealed, auth=("", ""))
    assert problem.status_code == 401 and problem.json()["code"] == "api/key", problem.text
print("ok")
