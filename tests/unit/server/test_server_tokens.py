"""Tokens: who signed, for whom, until when, and what a token cannot talk the server into."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from time import time
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.issuers import ISSUER, Issuer
from tests.server_app import INFER, Answer, start

from tidemill.errors import ConfigError, TidemillError, Unavailable
from tidemill.server import Authentication, Keyring, refuse_exposure
from tidemill.server import tokens as tokens_module
from tidemill.server.jwks import KeySet
from tidemill.server.keys import Permission, make_entry
from tidemill.server.protocol import Rejected
from tidemill.server.tokens import Tokens
from tidemill.settings.serving import JwtSettings, ServingSettings


class Door:
    """A door with an issuer behind it whose clocks and key set the test moves."""

    def __init__(self, signer: Issuer | None = None, **settings: Any) -> None:
        self.issuer = signer or Issuer()
        self.document: bytes | TidemillError = self.issuer.jwks
        self.reads = 0
        self.seconds = 0.0
        self.now = time
        given = {"jwks": "keys.json", "audience": "models", "issuer": ISSUER} | settings
        self.keys = KeySet(self.read, refresh_seconds=600, clock=lambda: self.seconds)
        self.tokens = Tokens(self.keys, JwtSettings(**given), now=lambda: self.now())

    def read(self) -> bytes:
        self.reads += 1
        if isinstance(self.document, TidemillError):
            raise self.document
        return self.document

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds
        if thread := self.keys.reload():
            thread.join()

    def code(self, token: str | bytes, needed: Permission = "infer") -> str:
        """Return the refusal's code; empty when the token opens."""
        try:
            self.tokens.admit(token.encode() if isinstance(token, str) else token, needed)
        except Rejected as refusal:
            return refusal.code
        return ""


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer("RS256", "ES256", "EdDSA")


def segment(value: Any) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


@pytest.mark.parametrize("kid", ["rs256", "es256", "eddsa"])
def test_what_the_issuer_signed_opens_and_what_was_changed_does_not(
    issuer: Issuer, kid: str
) -> None:
    door = Door(issuer)
    token = issuer.token(kid)
    assert door.code(token) == ""
    head, claims, signature = token.encode().split(b".")
    wider = segment(json.loads(base64.urlsafe_b64decode(claims + b"==")) | {"scope": "admin"})
    assert door.code(b".".join((head, wider, signature)), "admin") == "invalid_token"
    assert door.code(Issuer(kid.upper() if kid != "eddsa" else "EdDSA").token(kid)) == (
        "invalid_token"
    )


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"aud": "other"}, "invalid_token"),
        ({"aud": None}, "invalid_token"),
        ({"aud": ["other", "models"]}, ""),
        ({"iss": "https://else.example"}, "invalid_token"),
        ({"iss": None}, "invalid_token"),
        ({"exp": None}, "invalid_token"),
        ({"exp": "soon"}, "invalid_token"),
        ({"exp": timedelta(seconds=-20)}, ""),  # within the clocks' difference of 30 s
        ({"exp": timedelta(seconds=-40)}, "expired_token"),
        ({"nbf": timedelta(seconds=20)}, ""),
        ({"nbf": timedelta(seconds=600)}, "invalid_token"),
        ({"iat": timedelta(seconds=600)}, "invalid_token"),
        ({"scope": None}, "forbidden"),
        ({"scope": "admin"}, "forbidden"),
        ({"scope": "inference"}, "forbidden"),
        ({"scope": {"infer": True}}, "forbidden"),
        ({"scope": "openid infer"}, ""),
        ({"scope": ["infer", 7]}, ""),
    ],
)
def test_claims(door: Door, claims: dict[str, Any], code: str) -> None:
    now = time()
    given = {k: now + v.total_seconds() if type(v) is timedelta else v for k, v in claims.items()}
    token = door.issuer.token(**given)
    assert [door.code(token), door.code(token)] == [code, code]


@pytest.mark.parametrize("subject", ["ann@shop.example", "x" * 5000, "\ud800"])
def test_a_caller_is_known_by_a_hash_of_its_subject(door: Door, subject: str) -> None:
    token = door.issuer.token(sub=subject).encode()
    caller = door.tokens.admit(token, "infer")
    assert re.fullmatch("token:[0-9a-f]{16}", caller)
    assert door.tokens.admit(door.issuer.token(sub=subject, jti="2").encode(), "infer") == caller
    assert door.tokens.admit(door.issuer.token(sub=f"{subject}.").encode(), "infer") != caller


def test_a_token_without_a_subject_has_no_caller(door: Door) -> None:
    assert door.tokens.admit(door.issuer.token().encode(), "infer") == ""


def test_the_issuer_is_optional_and_the_claim_a_choice(issuer: Issuer) -> None:
    door = Door(issuer, issuer="", claim="roles", infer_scope="models.read", admin_scope="ops")
    token = issuer.token(iss=None, roles=["models.read", "ops"])
    assert door.code(token) == door.code(token, "admin") == ""
    assert door.code(issuer.token(roles=["ops"])) == "forbidden"


def test_no_signature_is_none(door: Door) -> None:
    claims = {"iss": ISSUER, "aud": "models", "scope": "infer", "exp": time() + 60}
    for name in ("none", "None", "NONE"):
        head = segment({"alg": name, "kid": "es256"})
        assert door.code(b".".join((head, segment(claims), b""))) == "invalid_token"


def test_a_public_key_is_no_secret_to_sign_with(issuer: Issuer) -> None:
    door = Door(issuer)
    public = issuer.keys["rs256"][1].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": ISSUER, "aud": "models", "scope": "infer", "exp": time() + 60}
    content = segment({"alg": "HS256", "kid": "rs256"}) + b"." + segment(claims)
    forged = hmac.new(pem, content, hashlib.sha256).digest()
    assert door.code(content + b"." + segment(forged)) == "invalid_token"


def test_symmetric_keys_and_keys_without_an_id_are_left_out(issuer: Issuer) -> None:
    secret = {"kty": "oct", "kid": "shared", "k": segment(b"s" * 32).decode(), "alg": "HS256"}
    door = Door(issuer)
    door.document = json.dumps({"keys": [secret, *issuer.public]}).encode()
    door.pass_seconds(600)
    assert door.keys.find("shared") is None
    for keys in ([secret], [], [{k: v for k, v in issuer.public[0].items() if k != "kid"}], [7]):
        document = json.dumps({"keys": keys}).encode()
        with pytest.raises(ConfigError, match=r"serving\.auth\.jwt\.jwks"):
            KeySet(lambda document=document: document, refresh_seconds=1)


def test_an_algorithm_that_is_not_allowed_opens_nothing(issuer: Issuer) -> None:
    door = Door(issuer, algorithms=["EdDSA"])
    assert door.code(issuer.token("eddsa")) == ""
    assert door.code(issuer.token("es256")) == "invalid_token"


def test_a_key_that_is_too_short_opens_nothing() -> None:
    issuer = Issuer("RS256")
    issuer.keys["weak"] = "RS256", rsa.generate_private_key(65537, 1024)
    door = Door(issuer)
    assert door.code(issuer.token("rs256")) == ""
    with pytest.warns(UserWarning, match="1024"):
        token = issuer.token("weak")
    assert door.code(token) == "invalid_token"


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=60).map(segment)).map(b".".join))
def test_whatever_comes_is_refused_with_a_reason(token: bytes) -> None:
    assert DOOR.code(token) == "invalid_token"


DOOR = Door()


def test_deep_nesting_is_refused(door: Door) -> None:
    deep = segment(b"[" * 20_000)
    assert door.code(b".".join((deep, deep, b"AA"))) == "invalid_token"


def test_a_known_token_is_not_verified_again_and_still_expires(door: Door) -> None:
    token = door.issuer.token()
    assert door.code(token) == ""
    assert len(door.tokens._grants) == 1
    door.now = lambda: time() + 3600 + 29
    assert door.code(token) == ""
    door.now = lambda: time() + 3600 + 31
    assert door.code(token) == "expired_token"
    assert not door.tokens._grants


def test_few_tokens_are_remembered(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "REMEMBERED", 3)
    tokens = [door.issuer.token(jti=str(n)) for n in range(5)]
    assert [door.code(token) for token in tokens * 2] == [""] * 10
    assert len(door.tokens._grants) == 3


def test_a_withdrawn_key_closes_what_it_had_opened(door: Door) -> None:
    token = door.issuer.token()
    assert door.code(token) == ""
    door.issuer.add("next")
    del door.issuer.keys["es256"]
    door.document = door.issuer.jwks
    door.pass_seconds(599)
    assert door.code(token) == ""
    door.pass_seconds(1)
    assert door.code(token) == "invalid_token"
    assert door.code(door.issuer.token("next")) == ""


def test_an_unknown_key_has_the_set_read_once_in_a_while(door: Door) -> None:
    door.issuer.add("next")
    fresh = door.issuer.token("next")
    door.document = door.issuer.jwks
    assert door.code(fresh) == "invalid_token"
    door.pass_seconds(4)
    assert door.reads == 1
    door.pass_seconds(1)
    assert door.code(fresh) == ""
    stranger = Issuer()
    stranger.add("made-up")
    for _ in range(100):
        assert door.code(stranger.token("made-up")) == "invalid_token"
        door.pass_seconds(0.1)
    assert door.reads <= 2 + 100 * 0.1 / 5 + 1


@pytest.mark.parametrize("broken", [Unavailable("down"), b"<html>", b'{"keys": []}', b"[" * 9999])
def test_while_the_set_cannot_be_read_the_last_good_one_stays(
    door: Door, broken: bytes | TidemillError
) -> None:
    good, door.document = door.document, broken
    for _ in range(3):
        door.pass_seconds(600)
        assert door.code(door.issuer.token()) == ""
    assert door.reads == 4
    door.issuer.add("next")
    door.document = door.issuer.jwks
    door.pass_seconds(600)
    assert door.code(door.issuer.token("next")) == ""
    assert good != door.document


def test_a_set_that_does_not_come_holds_up_nobody(door: Door) -> None:
    release, asked = Event(), Event()
    threads: list[Thread | None] = []

    def hang() -> bytes:
        asked.set()
        assert release.wait(60)
        return door.issuer.jwks

    door.keys._read = hang
    door.seconds = 600
    threads.append(door.keys.reload())
    assert asked.wait(60)
    threads.append(door.keys.reload())
    assert door.code(door.issuer.token()) == ""
    release.set()
    first, second = threads
    assert first is not None
    assert second is None
    first.join()


def test_without_a_set_at_the_start_there_is_no_server() -> None:
    def down() -> bytes:
        raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        KeySet(down, refresh_seconds=1)


def test_keys_and_tokens_open_the_same_door(bundle: Path, tmp_path: Path) -> None:
    door = Door()
    key, entry = make_entry("shop", permissions=["infer"])
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    ring = Keyring(tmp_path / "keys.yaml", tmp_path / "quota.db")
    served = start(bundle, Authentication(ring, door.tokens))
    alone = start(bundle, Authentication(None, door.tokens), auth={"open_metrics": False})

    def ask(credential: str, path: str = "/v2", at: Any = served) -> Answer:
        return at.ask(path, b"", "GET", authorization=f"Bearer {credential}")

    token = door.issuer.token()
    assert ask(key).status == ask(token).status == ask(token, at=alone).status == 200
    assert ask("a.b.c").body["code"] == "invalid_token"
    assert ask("abc").body["code"] == "unknown_key"
    assert ask(key, at=alone).body["code"] == "invalid_token"
    assert alone.ask(INFER).body["code"] == "missing_key"
    refused = ask(token, "/metrics", alone)
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    challenge = refused.headers[b"www-authenticate"]
    assert challenge == b'Bearer realm="tidemill", error="insufficient_scope", scope="admin"'
    assert ask(door.issuer.token(scope="admin"), "/metrics", alone).status == 200
    assert served.metric("tidemill_refused_total", code="invalid_token") == 1


def test_a_door_without_a_lock_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="neither"):
        Authentication(None, None)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"jwks": "http://issuer.example/keys", "audience": "a"}, "https"),
        ({"jwks": "keys.json"}, "audience"),
        ({"audience": "a"}, "audience"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"infer_scope": "x", "admin_scope": "x"}, "differ"),
        ({"infer_scope": 'a", b="'}, "infer_scope"),
    ],
)
def test_settings_that_would_open_too_much_are_refused(given: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        JwtSettings(**given)


def test_tokens_are_enough_to_listen_beyond_loopback() -> None:
    jwt = {"jwks": "keys.json", "audience": "a"}
    refuse_exposure("0.0.0.0", ServingSettings(auth={"jwt": jwt}))
