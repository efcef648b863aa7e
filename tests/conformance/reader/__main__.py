"""Checks the frozen vectors with the Python reader. The last line sums up; the exit code is 1 if anything failed.

`make PUBLIC APP ROLE KID TIME` makes tokens instead, as a client does that holds a public key and nothing else.
"""

import hashlib
import json
import secrets
import sys
from collections import Counter
from pathlib import Path

import e3_token as e3

VECTORS = Path(__file__).resolve().parent.parent / "data" / "vectors" / "tokens.json"
RFC_9180 = VECTORS.parent.parent / "rfc9180" / "base-x25519-sha256-aes256gcm.json"


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def group(self, title, checks, note=lambda: ""):
        """Runs (name, function) pairs. A function fails by raising, whatever it raises: a crash is no refusal."""
        passed = failed = 0
        for name, check in checks:
            try:
                check()
                passed += 1
            except Exception as error:
                failed += 1
                print(f"  FAILED {title}: {name}: {type(error).__name__}: {error}")
        # A group without checks would pass unseen if the vectors were emptied or renamed.
        if passed + failed == 0:
            failed = 1
            print(f"  FAILED {title}: nothing to check")
        print(f"  {title}: {passed} passed, {failed} failed{note()}")
        self.passed += passed
        self.failed += failed


def same(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: got {got[:80]!r}, wanted {wanted[:80]!r}")


def value_of(vector):
    if "value_repeated" in vector:
        return (vector["value_repeated"]["text"] * vector["value_repeated"]["times"]).encode()
    return vector["value"].encode()


def reseal(keys, v):
    if v["suite"] == e3.PUBLIC:
        # With what a client has: the public key, and no key of ours.
        public, ikm = bytes.fromhex(v["public"]), bytes.fromhex(v["ephemeral"])
        return e3.seal_to_public(public, v["app"], v["role"], v["type"], v["kid"], value_of(v), v["time"], ikm)
    salt, time = bytes.fromhex(v["salt"]), v["time"]
    return e3.seal(keys, v["app"], v["role"], v["type"], v["suite"], v["kid"], value_of(v), salt, time)


def check_derivation(keys, v):
    head = e3.header(v["role"], v["type"], v["suite"], v["kid"], v["time"])
    same("header", head.hex(), v["header"])
    key = e3.find_key(keys, v["app"], v["suite"], v["kid"])
    if v["suite"] == e3.PUBLIC:
        same("public key", e3.key_pair(key, v["app"])[1].hex(), v["public"])
        same("info", e3.public_info(v["app"]).hex(), v["info"])
        same("encapsulated key", e3.derive_key_pair(bytes.fromhex(v["ephemeral"]))[1].hex(), v["enc"])
        return
    salt = bytes.fromhex(v["salt"])
    if v["suite"] == e3.DETERMINISTIC:
        same("salt", e3.deterministic_salt(key, v["app"], v["role"], v["type"], value_of(v)).hex(), v["salt"])
    same("okm", e3.message_key(key, v["app"], head, salt).hex(), v["okm"])


def check_seal(keys, v):
    token = reseal(keys, v)
    if "token" in v:
        same("token", token, v["token"].encode())
    else:
        same("length", str(len(token)), str(v["token_length"]))
        same("SHA-256", hashlib.sha256(token).hexdigest(), v["token_sha256"])


def check_open(keys, v):
    # A long token is not in the file: its sealing is checked against its hash, so what was sealed is that token.
    token = v["token"].encode() if "token" in v else reseal(keys, v)
    parts, value = e3.open_token(keys, v["app"], token)
    same("value", value, value_of(v))
    name, part = ("enc", parts.enc) if v["suite"] == e3.PUBLIC else ("salt", parts.salt)
    got = (parts.role, parts.type, parts.suite, parts.kid, parts.time, part.hex())
    same("parts", got, (v["role"], v["type"], v["suite"], v["kid"], v["time"], v[name]))


def refused(keys, app, token, steps=None):
    try:
        e3.open_token(keys, app, token)
    except e3.NotAuthentic as refusal:
        # A token that falls at an earlier step than its fault proves nothing about the step it was made for.
        if steps is not None and refusal.step not in steps:
            raise AssertionError(f"refused, but at {refusal}, not at step {steps}") from None
        return refusal.step
    raise AssertionError("opened, though it must be refused")


def flips(keys, v):
    """Each bit of the binary, with the steps that may refuse it."""
    binary = e3.binary_of(v["token"].encode())
    for bit in range(len(binary) * 8):
        at = bit // 8
        if at < 5:
            steps = (2, 3, 4)  # suite and kid: another may exist
            if v["suite"] == e3.PUBLIC:
                steps = (2, 3, 5)
        elif v["suite"] == e3.PUBLIC:
            steps = (5,)
        elif at < 9:
            steps = (4,) if v["suite"] == e3.RANDOM else (2,)
        elif at < 65:
            steps = (4,)
        else:
            steps = (5,)
        flipped = bytearray(binary)
        flipped[at] ^= 0x80 >> bit % 8
        token = e3.write(v["role"], v["type"], bytes(flipped))
        yield f"byte {at}, bit {bit % 8}", lambda t=token, s=steps: refused(keys, v["app"], t, s)


# What section 2 says about values and the frozen tokens do not reach.
GOOD = [
    ("n", b"0"), ("n", b"-0"), ("n", b"-0.0e-00"), ("n", b"1E+400"),
    ("j", b"[]"), ("j", b"{}"), ("j", b"[ ]"), ("j", b"{ \t\r\n}"), ("j", b'[[],{}, {"":[]} ,0]'), ("j", b'{"a":1,"a":2}'),
    ("j", b'"\\udc00\\ud800"'), ("j", b"[" * 128 + b"]" * 128), ("j", b'{"a":' * 128 + b"1" + b"}" * 128), ("s", b"\xef\xbb\xbf"),
]
BAD = [
    ("n", b"+1"), ("n", b"1."), ("n", b".5"), ("n", b"1e"), ("n", b"-"), ("n", b"1\n"), ("n", "١".encode()), ("n", b"0x1"),
    ("b", b"true "), ("b", b""), ("z", b"null\x00"), ("z", b"NULL"),
    ("s", b"\xed\xa0\x80"), ("s", b"\xc0\x80"), ("s", b"\xf4\x90\x80\x80"), ("x", b""),
    ("j", b""), ("j", b" 1"), ("j", b"[]\n"), ("j", b"[,]"), ("j", b"[1,]"), ("j", b"[1 2]"), ("j", b'{"a"}'), ("j", b'{"a":}'),
    ("j", b'{"a":1,}'), ("j", b"{1:2}"), ("j", b"[}"), ("j", b"["), ("j", b"]"), ("j", b'{"a"'), ("j", b"NaN"), ("j", b"[Infinity]"),
    ("j", b"01"), ("j", b"[1.]"), ("j", b'"\t"'), ("j", b'"\\x"'), ("j", b'"\\u00g0"'), ("j", b'"\\u12"'), ("j", b'"'), ("j", b"'a'"),
    ("j", b"\xef\xbb\xbf1"), ("j", b"[\x0c]"), ("j", b"[\xc2\xa0]"), ("j", b'"\xed\xa0\x80"'), ("j", b"truefalse"), ("j", b"tru"),
    ("j", b"[" * 129 + b"]" * 129), ("j", b'{"a":' * 129 + b"1" + b"}" * 129), ("j", b"[" * 100_000), ("j", b"/**/1"),
]


def bad_value(kind, value):
    try:
        e3.check_value(kind, value)
    except e3.BadValue:
        return
    raise AssertionError("taken, though it is not one value of its type")


def hpke_vectors():
    """The official vectors of RFC 9180: a first message each, which is all that a token is."""
    for v in json.loads(RFC_9180.read_text(encoding="utf-8")):
        at = {name: bytes.fromhex(v[name]) for name in ("ikmR", "ikmE", "pkRm", "enc", "info", "shared_secret", "key", "base_nonce")}
        first = {name: bytes.fromhex(value) for name, value in v["encryptions"][0].items()}

        def check(at=at, first=first):
            pair = e3.derive_key_pair(at["ikmR"])
            same("public key", pair[1].hex(), at["pkRm"].hex())
            shared = e3.hpke_secret(pair[0].exchange(e3.X25519PublicKey.from_public_bytes(at["enc"])), at["enc"], at["pkRm"])
            same("shared secret", shared.hex(), at["shared_secret"].hex())
            same("key", [part.hex() for part in e3.hpke_key(shared, at["info"])], [at["key"].hex(), at["base_nonce"].hex()])
            enc, sealed = e3.hpke_seal(at["ikmE"], at["pkRm"], at["info"], first["aad"], first["pt"])
            same("enc and ciphertext", (enc.hex(), sealed.hex()), (at["enc"].hex(), first["ct"].hex()))
            same("plaintext", e3.hpke_open(pair, enc, at["info"], first["aad"], sealed), first["pt"])

        yield f"mode {v['mode']}, kem {v['kem_id']}, kdf {v['kdf_id']}, aead {v['aead_id']}", check


def make(public, app, role, kid, time):
    """Seals each line of standard input as a string to this public key; a token for each on standard output."""
    for line in sys.stdin.buffer.read().splitlines():
        ikm = secrets.token_bytes(32)
        token = e3.seal_to_public(bytes.fromhex(public), app, role, "s", int(kid), line, int(time), ikm)
        sys.stdout.write(token.decode() + "\n")


def main():
    if sys.argv[1:2] == ["make"]:
        return make(*sys.argv[2:])
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    keys = [e3.Key(k["app"], k["kid"], k["lineage"], bytes.fromhex(k["key"])) for k in vectors["keys"]]
    positive, negative = vectors["positive"], vectors["negative"]
    report = Report()

    for title, check in (("derive", check_derivation), ("seal", check_seal), ("open", check_open)):
        report.group(title, [(v["name"], lambda v=v: check(keys, v)) for v in positive])

    at_step = Counter()

    def check_negative(v):
        # A fault in the content is inside a genuine token, so nothing before the last step may refuse it.
        steps = (6,) if v["fault"].startswith("content:") else None
        at_step[refused(keys, v["app"], v["token"].encode(), steps)] += 1

    report.group(
        "refuse",
        [(v["fault"], lambda v=v: check_negative(v)) for v in negative],
        lambda: " (" + ", ".join(f"step {step}: {count}" for step, count in sorted(at_step.items())) + ")",
    )

    report.group("HPKE as the RFC's vectors have it", hpke_vectors())

    for suite, name in ((e3.RANDOM, "random"), (e3.PUBLIC, "public key"), (e3.DETERMINISTIC, "deterministic")):
        sample = next((v for v in positive if v["suite"] == suite and v.get("value")), None)
        report.group(f"flip each bit, {name}", flips(keys, sample) if sample else [])

    report.group("values taken", [(repr((k, v[:40])), lambda k=k, v=v: e3.check_value(k, v)) for k, v in GOOD])
    report.group("values refused", [(repr((k, v[:40])), lambda k=k, v=v: bad_value(k, v)) for k, v in BAD])

    print(f"reader: {report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
