from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from serve_app.config import AuthConfig
from serve_app.gateway.tokens import LEEWAY_S, SessionTokens, TokenRefused
from tests.never_shown import NeverShown

pytestmark = pytest.mark.unit

SECRET = "a secret of thirty-two bytes or more"
CONFIG = AuthConfig(session_secret=SecretStr(SECRET))
SESSION = "sess_h0123450123456789abcdef01234567"


def refusal(tokens: SessionTokens, token: str, session_id: str = SESSION) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        tokens.check(token, session_id)
    assert caught.value.code == "unauthorized"
    return caught.value


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_key_pair(tmp_path_factory.mktemp("keys"))


def write_key_pair(folder: Path) -> tuple[Path, Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def rs256(private: Path, public: Path) -> AuthConfig:
    return AuthConfig(jwt_algorithm="RS256", private_key=private, public_key=public)


@pytest.mark.parametrize("key_id", [None, "acme"])
def test_a_token_opens_its_session_and_names_the_key(key_id: str | None) -> None:
    tokens = SessionTokens(CONFIG)
    assert tokens.check(tokens.issue(SESSION, key_id, 60), SESSION) == key_id


def test_claims_are_those_of_rfc_7519() -> None:
    token = SessionTokens(CONFIG, now=lambda: 1_700_000_000.7).issue(SESSION, "acme", 60)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "iss": "avatar",
        "aud": "avatar",
        "sub": SESSION,
        "iat": 1_700_000_000,
        "exp": 1_700_000_060,
        "key_id": "acme",
    }


def test_rs256_signs_with_one_file_and_checks_with_the_other(key_files: tuple[Path, Path]) -> None:
    tokens = SessionTokens(rs256(*key_files))
    token = tokens.issue(SESSION, "acme", 60)
    assert jwt.get_unverified_header(token)["alg"] == "RS256"
    assert tokens.check(token, SESSION) == "acme"


def test_a_token_ends() -> None:
    old = SessionTokens(CONFIG, now=lambda: time.time() - 60 - LEEWAY_S - 1)
    assert refusal(SessionTokens(CONFIG), old.issue(SESSION, None, 60)).reason == "expired"


def test_a_clock_that_is_a_little_behind_is_forgiven() -> None:
    ahead = SessionTokens(CONFIG, now=lambda: time.time() + LEEWAY_S - 2)
    assert SessionTokens(CONFIG).check(ahead.issue(SESSION, None, 60), SESSION) is None


def test_a_token_of_another_session_is_refused_as_such() -> None:
    tokens = SessionTokens(CONFIG)
    assert refusal(tokens, tokens.issue(SESSION, None, 60), SESSION[:-1] + "0").reason == "wrong_session"


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    return {"iss": "avatar", "aud": "avatar", "sub": SESSION, "iat": now, "exp": now + 60, **changes}


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "iat", "exp"])
def test_every_claim_is_required(name: str) -> None:
    some = {key: value for key, value in claims().items() if key != name}
    assert refusal(SessionTokens(CONFIG), jwt.encode(some, SECRET)).reason == "invalid"


@pytest.mark.parametrize("changes", [{"aud": "other"}, {"iss": "other"}, {"iat": int(time.time()) + 600}])
def test_tokens_for_and_of_others_are_refused(changes: dict[str, object]) -> None:
    assert refusal(SessionTokens(CONFIG), jwt.encode(claims(**changes), SECRET)).reason == "invalid"


def test_a_token_signed_with_another_secret_is_refused() -> None:
    forged = jwt.encode(claims(), "another secret of thirty-two bytes or more")
    assert refusal(SessionTokens(CONFIG), forged).reason == "invalid"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_algorithm_is_not_the_tokens_choice(algorithm: str) -> None:
    config = AuthConfig(session_secret=SecretStr(SECRET * 2))
    forged = jwt.encode(claims(), SECRET * 2, algorithm=algorithm)
    assert refusal(SessionTokens(config), forged).reason == "invalid"


def test_a_token_without_a_signature_is_refused() -> None:
    unsigned = jwt.encode(claims(), "", algorithm="none")
    assert refusal(SessionTokens(CONFIG), unsigned).reason == "invalid"


def test_the_public_key_is_no_secret_to_sign_with(key_files: tuple[Path, Path]) -> None:
    # The classic confusion: HS256 with the bytes of RS256's public key. PyJWT does not sign such, so by hand.
    import hashlib
    import hmac

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    body = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims()).encode())
    mac = hmac.digest(key_files[1].read_bytes(), body, hashlib.sha256)
    forged = (body + b"." + part(mac)).decode()
    assert refusal(SessionTokens(rs256(*key_files)), forged).reason == "invalid"


def test_key_files_that_do_not_fit_are_refused(key_files: tuple[Path, Path], tmp_path: Path) -> None:
    _, other_public = write_key_pair(tmp_path)
    for private, public in (
        (key_files[0], other_public),
        (key_files[1], key_files[0]),
        (tmp_path / "none.pem", other_public),
    ):
        with pytest.raises(ValueError, match="expected an RSA key in"):
            SessionTokens(rs256(private, public))


def nested_header() -> str:
    header = b'{"alg":"HS256","x":' + b"[" * 2000 + b"]" * 2000 + b"}"
    return base64.urlsafe_b64encode(header).decode()[:4000].rstrip("=") + ".e30.AAAA"


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "e30.e30.", "ö" * 20, "\ud800", "x" * 5000, nested_header()]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(SessionTokens(CONFIG), token).reason == "invalid"


@given(st.text(max_size=200) | st.builds(".".join, st.lists(st.text("eyJ0-_AZ", max_size=20), max_size=4)))
def test_whatever_stands_for_a_token_is_refused(token: str) -> None:
    assert refusal(SessionTokens(CONFIG), token).reason == "invalid"


@given(st.dictionaries(st.sampled_from(["alg", "typ", "crit", "b64", "kid", "jku"]), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)))  # fmt: skip
def test_whatever_header_a_stranger_writes_is_refused(header: dict[str, object]) -> None:
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    assert refusal(SessionTokens(CONFIG), f"{head}.e30.AAAA").reason == "invalid"


def test_no_secret_and_no_token_is_logged_or_told(caplog: pytest.LogCaptureFixture) -> None:
    tokens = SessionTokens(CONFIG)
    token = tokens.issue(SESSION, "acme", 60)
    hidden = NeverShown(SECRET, token, token.rpartition(".")[2])
    with hidden.in_logs(caplog):
        hidden.check(tokens, refusal(tokens, token, "sess_other"), refusal(tokens, token + "x"))
