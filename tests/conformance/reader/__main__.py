"""Checks the frozen vectors with the Python reader. The last line sums up; the exit code is 1 if anything failed.

With `E3_ENGINE`, the path of the program, it seals with a public key that a running engine gives out, and has that engine open what it made.
"""

import hashlib
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
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


def lp8(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">B", len(data)) + data


def lp32(data):
    return struct.pack(">I", len(data)) + data


class Engine:
    """The real engine in a folder of its own, and a caller of it: sections 8 to 10 over a Unix socket."""

    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory()
        place = Path(self.folder.name)
        socket_path = place / "e3.sock"
        config = place / "e3.yaml"
        config.write_text(
            "development: true\nkeyring: keyring\nroot: {file: root.key}\naudit: {file: audit.jsonl}\n"
            f"listen: ['unix://{socket_path}']\napps: {{shop: {{roles: {{note: {{public_seal: true}}}}}}}}\n"
        )
        for command in (["keys", "init"], ["keys", "create-app", "shop"]):
            subprocess.run([program, *command, "--config", config], check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen([program, "run", "--config", config], stderr=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        until = time.monotonic() + 60
        while True:
            try:
                self.socket.connect(str(socket_path))
                return
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(60)
        self.folder.cleanup()

    def take(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise AssertionError("the engine closed the connection")
            data += more
        return data

    def ask(self, item):
        """One item of the app `shop`; the bytes of its result."""
        stated = struct.pack(">B", 5) + struct.pack(">H", 0) + lp8("") * 3
        body = struct.pack(">I", 30_000) + lp8("shop") + lp8("r") + stated + struct.pack(">I", 1) + item
        self.socket.sendall(struct.pack(">IBQ", 9 + len(body), 1, 1) + body)
        (length,) = struct.unpack(">I", self.take(4))
        frame = self.take(length)
        same("frame", (frame[0], frame[9]), (2, 0))
        same("count", struct.unpack(">I", frame[10:14])[0:1], (1,))
        return frame[14:]

    def public_key(self, role):
        result = self.ask(b"\x07" + lp8(role))
        same("code", result[:1], b"\x06")
        return struct.unpack(">I", result[1:5])[0], result[5:37]

    def open(self, role, token):
        """Type and value of a token, or the number of the refusal."""
        result = self.ask(b"\x04\x01" + lp8(role) + lp32(token))
        if result[0] == 3:
            return result[1]
        role_length = result[2]
        (length,) = struct.unpack(">I", result[3 + role_length : 7 + role_length])
        return chr(result[1]), result[7 + role_length : 7 + role_length + length]


def engine_checks(engine):
    """What is sealed here with nothing but the public key opens there."""
    kid, public = engine.public_key("note")

    def seal(kind, value, role="note", app="shop"):
        ikm = secrets.token_bytes(32)
        return e3.seal_to_public(public, app, role, kind, kid, value, int(time.time()), ikm)

    values = [("s", b""), ("s", "Zoë 漢字".encode()), ("n", b"1.10"), ("b", b"true"), ("z", b"null"), ("j", b'{"a":[]}')]
    for kind, value in values + [("s", b"x" * 100_000)]:
        yield f"{kind} of {len(value)} bytes", lambda k=kind, v=value: same("value", engine.open("note", seal(k, v)), (k, v))
    yield "for another app", lambda: same("refusal", (engine.open("note", seal("s", b"x", app="bank")),), (1,))
    other = lambda: e3.write("note", "s", e3.binary_of(seal("s", b"x", role="card")))
    yield "for another role", lambda: same("refusal", (engine.open("note", other()),), (1,))


def main():
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

    program = os.environ.get("E3_ENGINE")
    if program:
        engine = Engine(program)
        try:
            report.group("sealed here, opened by the engine", engine_checks(engine))
        finally:
            engine.stop()
    else:
        print("  sealed here, opened by the engine: left out, E3_ENGINE names no program")

    report.group("values taken", [(repr((k, v[:40])), lambda k=k, v=v: e3.check_value(k, v)) for k, v in GOOD])
    report.group("values refused", [(repr((k, v[:40])), lambda k=k, v=v: bad_value(k, v)) for k, v in BAD])

    print(f"reader: {report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
