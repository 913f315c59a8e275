"""Who calls: one verification a request, before routing reaches a handler.

Handlers only ever see a `Caller`, which nothing else makes. With signatures switched off (loopback only) everybody is
the administrator and the region is whatever the request claims.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from clary.domain import registry_login
from clary.domain.errors import AccessDenied
from clary.domain.identity import Caller
from clary.domain.names import DEFAULT_REGION, is_region
from clary.domain.policy import Decision, Policy, evaluate
from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.sigv4 import Credential, PayloadMode, Verdict, authenticate, declared_payload
from clary.wire.sigv4_scope import scope_of


class Identities(Protocol):
    """The keys and what their owners may do, from memory."""

    def find(self, access_key_id: str) -> Credential | None: ...
    def caller(self, access_key_id: str) -> Caller: ...
    def policies(self, access_key_id: str) -> tuple[Policy, ...]: ...


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The outcome: the caller, the region it named, and how its body must still be checked."""

    caller: Caller
    region: str
    verdict: Verdict
    policies: tuple[Policy, ...]

    def authorize(self, action: str, resource: str, context: Mapping[str, str] | None = None) -> None:
        """Raises: AccessDenied unless the caller may."""
        if self.caller.administrator:
            return
        decision = evaluate(self.policies, action, resource, context or {})
        if decision is not Decision.ALLOW:
            why = "an explicit deny" if decision is Decision.EXPLICIT_DENY else "no policy that allows it"
            raise AccessDenied(action=action, resource=resource, reason=f"{self.caller.arn} has {why}")


class Authentication:
    """Verifies requests for the gateway."""

    def __init__(self, identities: Identities, required: bool, account: str, now: Callable[[], datetime]) -> None:
        self._identities = identities
        self._required = required
        self._account = account
        self._now = now

    def check(self, request: Request, signing_name: str) -> Authenticated:
        """Raises: WireError. `signing_name` is the service the request was routed to."""
        if not self._required:
            return self._anyone(request)
        # The gateway is behind the proxy on a unix socket: loopback, or TLS ended before us.
        verdict = authenticate(request, self._identities, self._now(), secure_transport=True)
        if verdict.service != signing_name:
            raise WireError(
                "SignatureDoesNotMatch",
                403,
                f"Credential should be scoped to correct service: '{signing_name}'.",
            )
        if not is_region(verdict.region):
            raise WireError("AuthorizationHeaderMalformed", 400, f"'{verdict.region}' is not a region.")
        key = verdict.access_key_id
        return Authenticated(self._identities.caller(key), verdict.region, verdict, self._identities.policies(key))

    def check_login(self, request: Request) -> Authenticated | None:
        """Who is behind a Basic login with a password of ECR's GetAuthorizationToken; None for one that does not hold.

        With signatures switched off anybody comes in; the password still tells the region.
        """
        login = _login_of(request.header("authorization") or "")
        if not self._required:
            anyone = self._anyone(request)
            return anyone if login is None else replace(anyone, region=login.region)
        key = self._identities.find(login.access_key_id) if login is not None else None
        if login is None or key is None or not key.active:
            return None
        now = self._now()
        expired = key.expires_at is not None and key.expires_at <= now
        if expired or not registry_login.holds(login, key.secret_access_key, now.timestamp()):
            return None
        verdict = Verdict(login.access_key_id, login.region, "ecr", PayloadMode.UNSIGNED)
        caller = self._identities.caller(login.access_key_id)
        return Authenticated(caller, login.region, verdict, self._identities.policies(login.access_key_id))

    def _anyone(self, request: Request) -> Authenticated:
        scope = scope_of(request)
        region = scope.region if scope is not None and is_region(scope.region) else DEFAULT_REGION
        mode, sha256 = declared_payload(request.header("x-amz-content-sha256") or "")
        caller = Caller(f"arn:aws:iam::{self._account}:root", "", administrator=True, user_id=self._account)
        return Authenticated(caller, region, Verdict("", region, "", mode, sha256), ())


def _login_of(header: str) -> registry_login.Login | None:
    """The password in a Basic header, read."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(text, validate=True).decode("ascii").partition(":")
    except (ValueError, binascii.Error):
        return None
    return registry_login.read(password) if user == registry_login.USER else None
