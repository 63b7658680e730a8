"""Tokens that let a client join one session: JWTs (RFC 7519), so that any gateway can check them alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jwt

from serve_app.config import AuthConfig
from serve_app.errors import Unauthorized

LEEWAY_S = 5.0
"""How far the clocks of two gateways may be apart."""

MAX_TOKEN_CHARACTERS = 4096

Reason = Literal["expired", "wrong_session", "invalid"]


class TokenRefused(Unauthorized):
    """A session token does not open this session.

    Attributes:
        reason: "expired"; "wrong_session": it is another session's; "invalid": not made here, or for another
            audience.
    """

    def __init__(self, detail: str, reason: Reason) -> None:
        super().__init__(detail)
        self.reason = reason


class SessionTokens:
    """Issues and checks session tokens.

    Args:
        config: the secret or the key files, the algorithm, issuer and audience.
        now: POSIX time at which tokens are issued.

    Raises:
        ValueError: RS256's key files cannot be used, or are not two halves of one key.
    """

    def __init__(self, config: AuthConfig, now: Callable[[], float] = time.time) -> None:
        self._algorithm = config.jwt_algorithm
        self._issuer = config.issuer
        self._audience = config.audience
        self._now = now
        if config.jwt_algorithm == "HS256":
            secret = config.session_secret.get_secret_value().encode()
            self._signing_key, self._checking_key = secret, secret
        else:
            self._signing_key, self._checking_key = _key_pair(config)

    def issue(self, session_id: str, key_id: str | None, lifetime_s: float) -> str:
        """Return a token for a session, good for `lifetime_s`.

        Args:
            session_id: the only session it opens.
            key_id: the API key the session is counted against, or None.
            lifetime_s: until it expires.
        """
        return self.sign(session_id, {} if key_id is None else {"key_id": key_id}, lifetime_s)

    def sign(self, subject: str, claims: Mapping[str, object], lifetime_s: float) -> str:
        """Return a token that carries claims of its door's own; whoever holds it can read them.

        Args:
            subject: what it is good for; no session's id.
            claims: JSON values.
            lifetime_s: until it expires.
        """
        now = self._now()
        registered = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "iat": int(now),
            "exp": int(now + lifetime_s),
        }
        return jwt.encode({**claims, **registered}, self._signing_key, algorithm=self._algorithm)

    def check(self, token: str, session_id: str) -> str | None:
        """Return the API key that a session's token was issued for, or None.

        Raises:
            TokenRefused: the token is not one for this session, or no longer.
        """
        key_id = self.claims_of(token, session_id).get("key_id")
        return key_id if isinstance(key_id, str) else None

    def claims_of(
        self, token: str, subject: str, max_characters: int = MAX_TOKEN_CHARACTERS
    ) -> dict[str, Any]:
        """Return the claims that a token was signed with, for this subject.

        Raises:
            TokenRefused: the token is not one for this subject, or no longer.
        """
        if len(token) > max_characters or not token.isascii():
            raise _invalid()
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._checking_key,
                algorithms=[self._algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={"require": ["iss", "aud", "sub", "iat", "exp"]},
            )
        except jwt.ExpiredSignatureError:
            raise TokenRefused(
                "expected a session token in force, found one that has expired", "expired"
            ) from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            # The header is parsed before the signature is checked: a stranger nests it as deep as he likes.
            raise _invalid() from None
        if claims["sub"] != subject:
            raise TokenRefused("expected the token of this session, found another's", "wrong_session")
        return claims


def _invalid() -> TokenRefused:
    return TokenRefused("expected a session token of this server, found something else", "invalid")


def _key_pair(config: AuthConfig) -> tuple[bytes, bytes]:
    """Read the halves of an RSA key, and see that they fit."""
    assert config.private_key is not None, "AuthConfig asks for both with RS256"
    assert config.public_key is not None, "AuthConfig asks for both with RS256"
    try:
        private, public = config.private_key.read_bytes(), config.public_key.read_bytes()
        probe = jwt.encode({}, private, algorithm="RS256")
        jwt.decode(probe, public, algorithms=["RS256"])
    except (OSError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
        # PyJWT takes a public key to sign with, and then misses its method.
        raise ValueError(
            f"auth: expected an RSA key in {config.private_key} (PEM) and its public half in "
            f"{config.public_key}, found other files ({type(error).__name__})"
        ) from None
    return private, public
