"""A second reader and writer of E3 tokens, written from e3-enclave/SPEC.md alone.

It shares no code with the engine, so that an error of the engine and an error of the specification cannot hide behind each
other. It is made for checking, not for serving: it says which step refused a token, which an engine never does.
"""

import base64
import hashlib
import hmac
import re
import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

RANDOM, PUBLIC, DETERMINISTIC = 1, 2, 3
LINEAGE = {RANDOM: "random", PUBLIC: "public", DETERMINISTIC: "det"}

MAX_VALUE = 16_777_216
MAX_BASE64 = 22_369_730
MAX_DEPTH = 128

FIXED = struct.Struct(">BII24s32s")  # suite, kid, time, salt, commit
FIXED_PUBLIC = struct.Struct(">BII32s")  # suite, kid, time, enc
TAG = 16

# Patterns are of bytes: `\d` and the like would let other alphabets in if they were of text.
TOKEN = re.compile(rb"e3v1\.([a-z][a-z0-9-]{0,19})\.([snbzj])\.([A-Za-z0-9_-]+)\.")
ROLE = re.compile(r"[a-z][a-z0-9-]{0,19}")
APP = re.compile(r"[a-z][a-z0-9-]{0,31}")


class NotAuthentic(Exception):
    """The token was refused at `step` of section 7."""

    def __init__(self, step, why):
        super().__init__(f"step {step}: {why}")
        self.step = step


class BadValue(Exception):
    """The plaintext is not one value of its type."""


class Key(NamedTuple):
    app: str
    kid: int
    lineage: str
    key: bytes


class Parts(NamedTuple):
    role: str
    type: str
    suite: int
    kid: int
    time: int
    salt: bytes | None
    commit: bytes | None
    enc: bytes | None  # of suite 2, which has neither salt nor commitment
    sealed: bytes  # ciphertext and tag


# Values (section 2)

NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# Each part can match in one way only: a pattern with choices would take exponential time on a string that does not end.
STRING = re.compile(rb'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"')
LITERAL = re.compile(rb"true|false|null")
SPACE = re.compile(rb"[ \t\n\r]*")


def check_value(kind, value):
    """Refuses what is not exactly one value of the type."""
    if len(value) > MAX_VALUE:
        raise BadValue("too long")
    if kind == "s":
        check_utf8(value)
    elif kind == "n":
        if not NUMBER.fullmatch(value):
            raise BadValue("not a number")
    elif kind == "b":
        if value not in (b"true", b"false"):
            raise BadValue("not a boolean")
    elif kind == "z":
        if value != b"null":
            raise BadValue("not null")
    elif kind == "j":
        check_utf8(value)
        check_json(value)
    else:
        raise BadValue("unknown type")


def check_utf8(value):
    try:
        value.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise BadValue("not UTF-8") from None


def check_json(text):
    """RFC 8259 without recursion. Python's own parser is no judge here: it takes NaN, and white space around a value."""
    stack = []  # the closing bracket of each value that is open
    at = 0

    def skip():
        return SPACE.match(text, at).end()

    def name():
        """Reads a member's name and its colon."""
        nonlocal at
        found = STRING.match(text, at)
        if not found:
            raise BadValue("not JSON: name expected")
        at = found.end()
        at = skip()
        if text[at : at + 1] != b":":
            raise BadValue("not JSON: colon expected")
        at += 1
        at = skip()

    while True:
        # A value begins here.
        start = text[at : at + 1]
        if start in (b"[", b"{"):
            close = b"]" if start == b"[" else b"}"
            stack.append(close)
            if len(stack) > MAX_DEPTH:
                raise BadValue("nested too deep")
            at += 1
            at = skip()
            if text[at : at + 1] != close:
                if close == b"}":
                    name()
                continue
        else:
            found = STRING.match(text, at) or NUMBER.match(text, at) or LITERAL.match(text, at)
            if not found:
                raise BadValue("not JSON: value expected")
            at = found.end()

        # A value has ended, or an empty one is about to: close what closes, up to the next comma.
        while stack:
            at = skip()
            mark = text[at : at + 1]
            at += 1
            if mark == stack[-1]:
                stack.pop()
            elif mark == b",":
                at = skip()
                if stack[-1] == b"}":
                    name()
                break
            else:
                raise BadValue("not JSON: comma or closing bracket expected")
        else:
            # White space behind the value is refused too, so nothing is skipped here.
            if at != len(text):
                raise BadValue("bytes behind the value")
            return


# Text and binary (sections 3 and 4)


def encode(binary):
    return base64.urlsafe_b64encode(binary).rstrip(b"=")


def decode(text):
    if len(text) % 4 == 1:
        raise NotAuthentic(1, "base64url of impossible length")
    binary = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    # Python ignores the bits that carry no data. Only the canonical text comes out again as it went in.
    if encode(binary) != text:
        raise NotAuthentic(1, "base64url is not canonical")
    return binary


def parse(token):
    """Steps 1 and 2 of section 7."""
    found = TOKEN.fullmatch(token)
    if not found:
        raise NotAuthentic(1, "not exactly one token")
    role, kind, body = found.groups()
    if len(body) > MAX_BASE64:
        raise NotAuthentic(1, "text too long")
    binary = decode(body)
    suite = binary[0]
    if suite not in LINEAGE:
        raise NotAuthentic(2, "unknown suite")
    fixed = FIXED_PUBLIC if suite == PUBLIC else FIXED
    if not fixed.size + TAG <= len(binary) <= fixed.size + MAX_VALUE + TAG:
        raise NotAuthentic(2, "binary too short or too long")
    sealed = binary[fixed.size :]
    if suite == PUBLIC:
        _, kid, time, enc = fixed.unpack_from(binary)
        return Parts(role.decode(), kind.decode(), suite, kid, time, None, None, enc, sealed)
    _, kid, time, salt, commit = fixed.unpack_from(binary)
    if suite == DETERMINISTIC and time != 0:
        raise NotAuthentic(2, "deterministic with a time")
    return Parts(role.decode(), kind.decode(), suite, kid, time, salt, commit, None, sealed)


def write(role, kind, binary):
    """The text of a binary, whatever it holds: tests write tokens that must be refused with it."""
    return b"e3v1.%s.%s.%s." % (role.encode(), kind.encode(), encode(binary))


def binary_of(token):
    return decode(TOKEN.fullmatch(token).group(3))


# Keys (sections 5 and 6)


def lp(text):
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def hkdf(key, salt, info, length):
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key)


def header(role, kind, suite, kid, time):
    return b"e3v1" + lp(role) + kind.encode() + struct.pack(">BII", suite, kid, time)


def message_key(key, app, head, salt):
    info = b"e3v1/message" + hashlib.sha256(head + lp(app)).digest()
    return hkdf(key, salt, info, 76)


def split(okm):
    """Key, commitment and nonce."""
    return okm[:32], okm[32:64], okm[64:]


def deterministic_salt(key, app, role, kind, value):
    det = hkdf(key, None, b"e3v1/deterministic" + lp(app), 32)
    return hmac.new(det, lp(app) + lp(role) + kind.encode() + value, hashlib.sha256).digest()[:24]


def find_key(keys, app, suite, kid):
    for key in keys:
        if (key.app, key.kid, key.lineage) == (app, kid, LINEAGE[suite]):
            return key.key
    return None


# Public-key sealing (section 7): HPKE, RFC 9180, base mode, written out from the RFC

KEM = b"KEM" + struct.pack(">H", 0x0020)  # DHKEM(X25519, HKDF-SHA256)
SUITE = b"HPKE" + struct.pack(">HHH", 0x0020, 0x0001, 0x0002)  # with HKDF-SHA256 and AES-256-GCM


def labeled_extract(suite, salt, label, ikm):
    # HKDF-Extract is one HMAC under the salt; an empty one is a key of zeroes, which HMAC pads to anyway.
    return hmac.new(salt, b"HPKE-v1" + suite + label + ikm, hashlib.sha256).digest()


def labeled_expand(suite, prk, label, info, length):
    labeled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return HKDFExpand(algorithm=SHA256(), length=length, info=labeled).derive(prk)


def derive_key_pair(ikm):
    """DeriveKeyPair of section 7.1.3 of the RFC: the private key, and the public one's bytes."""
    prk = labeled_extract(KEM, b"", b"dkp_prk", ikm)
    private = X25519PrivateKey.from_private_bytes(labeled_expand(KEM, prk, b"sk", b"", 32))
    return private, private.public_key().public_bytes_raw()


def hpke_secret(dh, enc, public):
    """The shared secret of the KEM: section 4.1 of the RFC."""
    prk = labeled_extract(KEM, b"", b"eae_prk", dh)
    return labeled_expand(KEM, prk, b"shared_secret", enc + public, 32)


def hpke_key(shared, info):
    """Key and nonce of the one message: section 5.1 of the RFC, in base mode, where there is no psk."""
    context = b"\x00" + labeled_extract(SUITE, b"", b"psk_id_hash", b"") + labeled_extract(SUITE, b"", b"info_hash", info)
    secret = labeled_extract(SUITE, shared, b"secret", b"")
    return labeled_expand(SUITE, secret, b"key", context, 32), labeled_expand(SUITE, secret, b"base_nonce", context, 12)


def hpke_seal(ikm, public, info, aad, value):
    ephemeral, enc = derive_key_pair(ikm)
    shared = hpke_secret(ephemeral.exchange(X25519PublicKey.from_public_bytes(public)), enc, public)
    key, nonce = hpke_key(shared, info)
    return enc, AESGCM(key).encrypt(nonce, value, aad)


def hpke_open(pair, enc, info, aad, sealed):
    private, public = pair
    # A shared point of zeroes is refused with ValueError, as the RFC demands.
    shared = hpke_secret(private.exchange(X25519PublicKey.from_public_bytes(enc)), enc, public)
    key, nonce = hpke_key(shared, info)
    return AESGCM(key).decrypt(nonce, sealed, aad)


def key_pair(key, app):
    """The key pair that an app key of the public lineage stands for."""
    return derive_key_pair(hkdf(key, None, b"e3v1/public-key" + lp(app), 32))


def public_info(app):
    return b"e3v1/public" + lp(app)


def seal_to_public(public, app, role, kind, kid, value, time, ikm):
    """What a client does that holds the public key alone; `ikm`: 32 random bytes, unless a test states them."""
    if not (ROLE.fullmatch(role) and APP.fullmatch(app)):
        raise ValueError("role or app against its grammar")
    check_value(kind, value)
    head = header(role, kind, PUBLIC, kid, time)
    enc, sealed = hpke_seal(ikm, public, public_info(app), head, value)
    return write(role, kind, FIXED_PUBLIC.pack(PUBLIC, kid, time, enc) + sealed)


# Opening and sealing


def open_token(keys, app, token):
    """The parts and the plaintext of an authentic token; the order of the steps is that of section 7."""
    parts = parse(token)
    key = find_key(keys, app, parts.suite, parts.kid)
    if key is None:
        raise NotAuthentic(3, "no such key of this app and lineage")
    head = header(parts.role, parts.type, parts.suite, parts.kid, parts.time)
    try:
        if parts.suite == PUBLIC:
            value = hpke_open(key_pair(key, app), parts.enc, public_info(app), head, parts.sealed)
        else:
            message, commit, nonce = split(message_key(key, app, head, parts.salt))
            if not hmac.compare_digest(commit, parts.commit):
                raise NotAuthentic(4, "commitment differs")
            value = AESGCM(message).decrypt(nonce, parts.sealed, head)
    except InvalidTag:
        raise NotAuthentic(5, "tag differs") from None
    except ValueError:
        raise NotAuthentic(5, "shared secret of zeroes") from None
    try:
        check_value(parts.type, value)
    except BadValue as error:
        raise NotAuthentic(6, str(error)) from None
    return parts, value


def seal(keys, app, role, kind, suite, kid, value, salt=None, time=0):
    """Seals with a stated salt and time, as only a test may; suite 3 makes its salt itself."""
    if not (ROLE.fullmatch(role) and APP.fullmatch(app)):
        raise ValueError("role or app against its grammar")
    check_value(kind, value)
    key = find_key(keys, app, suite, kid)
    if key is None:
        raise ValueError("no such key of this app and lineage")
    if suite == DETERMINISTIC:
        salt, time = deterministic_salt(key, app, role, kind, value), 0
    head = header(role, kind, suite, kid, time)
    message, commit, nonce = split(message_key(key, app, head, salt))
    sealed = AESGCM(message).encrypt(nonce, value, head)
    return write(role, kind, FIXED.pack(suite, kid, time, salt, commit) + sealed)
