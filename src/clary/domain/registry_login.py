"""The password of `docker login`: who asked for it, in which region, until when, and a seal that only his key can make.

    base64url(ACCESS_KEY_ID REGION EXPIRES_S).hex(HMAC-SHA256(secret, the first part))

Nothing is stored: a key that is disabled, rotated or expired takes its passwords with it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass

from clary.domain.names import is_region

VALID_S = 12 * 3600  # ECR API reference, GetAuthorizationToken
USER = "AWS"
_CONTEXT = b"clary-registry-login\n"
_MAX = 512


@dataclass(frozen=True, slots=True)
class Login:
    """A password, read and not yet verified. `access_key_id` is "" where signatures are switched off."""

    access_key_id: str
    region: str
    expires_s: int
    text: str
    seal: str


def password(access_key_id: str, secret: str, region: str, expires_s: int) -> str:
    """`expires_s`: seconds since the epoch."""
    text = base64.urlsafe_b64encode(f"{access_key_id} {region} {expires_s}".encode()).decode()
    return f"{text}.{_seal(text, secret)}"


def read(given: str) -> Login | None:
    """None for what is none of our passwords."""
    text, _, seal = given.partition(".")
    if len(given) > _MAX:
        return None
    try:
        words = base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii").split(" ")
    except (ValueError, binascii.Error):
        return None
    if len(words) != 3 or not is_region(words[1]) or not words[2].isdigit():
        return None
    return Login(words[0], words[1], int(words[2]), text, seal)


def holds(login: Login, secret: str, now_s: float) -> bool:
    """Whether the owner of `secret` made it, and not too long ago."""
    return hmac.compare_digest(_seal(login.text, secret).encode(), login.seal.encode()) and now_s < login.expires_s


def _seal(text: str, secret: str) -> str:
    return hmac.new(secret.encode(), _CONTEXT + text.encode(), "sha256").hexdigest()
