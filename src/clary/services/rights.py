"""Whose rights a thing has that acts later: those of its role, or of who named the role where IAM holds none."""

from __future__ import annotations

from typing import Protocol

from clary.services.base import Context


class Keyring(Protocol):
    """Who is behind a key: (user, role of a session), both "" for nobody known."""

    def owner(self, access_key_id: str) -> tuple[str, str]: ...


def passed_on(context: Context, keyring: Keyring) -> dict[str, str]:
    """The members under which a stored thing keeps its maker: {"user", "user_role"}."""
    user, role = keyring.owner(context.caller.access_key_id)
    return {"user": user, "user_role": role}
