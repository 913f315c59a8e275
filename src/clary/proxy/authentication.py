"""Who sends this invocation, and may they: checked once, here, against the snapshot that control publishes.

The snapshot (keys and compiled policies, 0600, replaced by rename) is read again when its file changes, looked at
once a second; a disabled key stops within that second, and with control dead the last snapshot holds. Before anybody
is refused it is looked at too, so a new key, session or policy holds with its first request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from clary import tables
from clary.domain.names import DEFAULT_REGION, partition
from clary.domain.policy import Decision, Policy, evaluate, parse
from clary.proxy.answers import Refusal
from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.sigv4 import Credential, authenticate, check_payload
from clary.wire.sigv4_scope import scope_of


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated sender, in the region its signature names."""

    access_key_id: str
    region: str
    arn: str
    administrator: bool
    policies: tuple[Policy, ...]


class Snapshot:
    """The keys and policies in force; the keyring that `authenticate` asks."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._credentials: dict[str, Credential] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}
        for key in body.get("keys", ()):
            expires = key.get("expires_at")
            self._credentials[key["access_key_id"]] = Credential(
                access_key_id=key["access_key_id"],
                secret_access_key=key["secret_access_key"],
                session_token=key.get("session_token"),
                expires_at=datetime.fromisoformat(expires) if expires else None,
                active=key.get("active", True),
            )
            self._facts[key["access_key_id"]] = key
        self._policies: dict[str, tuple[Policy, ...]] = {}

    def find(self, access_key_id: str) -> Credential | None:
        return self._credentials.get(access_key_id)

    def caller(self, access_key_id: str, region: str) -> Caller:
        facts = self._facts[access_key_id]
        policies = self._policies.get(access_key_id)
        if policies is None:
            policies = tuple(parse(json.loads(document)) for document in facts.get("policies", ()))
            self._policies[access_key_id] = policies
        return Caller(access_key_id, region, facts.get("arn", ""), facts.get("administrator", False), policies)


class Authenticator:
    """`check` and `authorize` are the only two questions; `refresh` is called every second."""

    def __init__(self, path: Path, account: str, required: bool, loopback: bool) -> None:
        self.required = required
        self._path = path
        self._account = account
        self._loopback = loopback
        self._stamp: tuple[int, int] = (0, 0)
        self._snapshot = Snapshot({})
        self._anybody = Caller("", DEFAULT_REGION, "", True, ())
        self.refresh()

    def refresh(self) -> bool:
        """Takes a changed snapshot and tells whether there was one; a torn one is refused and the old one stays."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return False
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp == self._stamp:
            return False
        try:
            self._snapshot = Snapshot(tables.read(self._path))
        except (tables.TornTable, KeyError, ValueError):
            return False
        self._stamp = stamp
        return True

    def check(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> Caller | Refusal:
        """The sender of an invocation."""
        found = self._check(method, target, headers, body)
        return self._check(method, target, headers, body) if isinstance(found, Refusal) and self.refresh() else found

    def _check(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> Caller | Refusal:
        if not self.required and not self._names_region(target, headers):
            return self._anybody
        request = Request(method.decode("latin-1"), target, tuple(headers), body)
        if not self.required:
            scope = scope_of(request)
            return Caller("", scope.region if scope else DEFAULT_REGION, "", True, ())
        try:
            verdict = authenticate(
                request, self._snapshot, datetime.now(UTC), secure_transport=self._loopback, allow_sigv2=False
            )
            if verdict.service != "sagemaker":
                raise WireError(
                    "InvalidSignatureException", 403, "Credential should be scoped to correct service: 'sagemaker'."
                )
            if verdict.payload_sha256 is not None:
                check_payload(verdict, sha256(body).hexdigest())
        except WireError as error:
            return Refusal(error.code, error.status, error.message)
        return self._snapshot.caller(verdict.access_key_id, verdict.region)

    def _names_region(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether a request that nobody checks may carry a signature's scope all the same."""
        return b"?" in target or any(name == b"authorization" for name, _ in headers)

    def authorize(
        self, caller: Caller, region: str, endpoint: str, action: str, target_model: str = ""
    ) -> Refusal | None:
        """None when `caller` may invoke `endpoint`, or a model of it, in the way that `action` names."""
        if caller.administrator:
            return None
        arn = f"arn:{partition(region)}:sagemaker:{region}:{self._account}:endpoint/{endpoint.lower()}"
        context = {"sagemaker:targetmodel": target_model} if target_model else {}
        if evaluate(caller.policies, action, arn, context) is Decision.ALLOW:
            return None
        if self.refresh() and self._snapshot.find(caller.access_key_id) is not None:
            now = self._snapshot.caller(caller.access_key_id, caller.region)
            return self.authorize(now, region, endpoint, action, target_model)
        return Refusal(
            "AccessDeniedException",
            403,
            f"User: {caller.arn} is not authorized to perform: {action} on resource: {arn}",
        )
