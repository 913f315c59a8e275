"""Keys, users, roles and their policies: one file that is replaced whole, and the snapshot of it that the proxy reads.

The state is small and read at every request, so it is held in memory; each change is written to `keys/identities.json`
(0600, checksummed, renamed into place) before it is acknowledged, then published to `run/identity.json`. Secrets lie in
these two files only, never in the database or its copies: HMAC needs them as they are.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from clary import tables
from clary.domain.errors import AlreadyExists, Invalid, LimitExceeded, NotFound
from clary.domain.identity import Caller
from clary.domain.policy import Policy, parse
from clary.store.codec import decode, encode
from clary.wire.sigv4 import Credential

ADMIN = "clary-admin"
EXECUTION_ROLE = "clary-execution-role"  # the one that `clary env` names in SAGEMAKER_ROLE
MAX_KEYS = 2  # a user's: two, so that one can be rotated out (IAM quota)
MAX_SESSIONS = 10_000


@dataclass(frozen=True, slots=True)
class AccessKey:
    """One key. A session has a token, an expiry, and the ARN of its assumed role."""

    access_key_id: str
    secret: str
    user: str = ""
    active: bool = True
    created_at: str = ""
    session_token: str | None = None
    expires_at: str | None = None
    assumed_arn: str = ""
    role: str = ""  # of a session: whose policies hold; "" means those of `user`


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a role: its inline policies by name and its attached ones by ARN. Policies are JSON documents."""

    name: str
    id: str
    path: str = "/"
    created_at: str = ""
    administrator: bool = False
    inline: dict[str, str] = field(default_factory=dict)
    attached: tuple[str, ...] = ()
    trust: str = ""  # AssumeRolePolicyDocument of a role
    description: str = ""
    max_session_s: int = 3600


@dataclass(frozen=True, slots=True)
class ManagedPolicy:
    """A customer-managed policy."""

    name: str
    arn: str
    id: str
    document: str
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is remembered."""

    keys: dict[str, AccessKey] = field(default_factory=dict)
    users: dict[str, Principal] = field(default_factory=dict)
    roles: dict[str, Principal] = field(default_factory=dict)
    policies: dict[str, ManagedPolicy] = field(default_factory=dict)  # by ARN


# AWS-managed policies that scripts attach, as far as the services here go.
_ALL = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
_SAGEMAKER = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sagemaker:*","s3:*","logs:*","cloudwatch:*",'
    '"application-autoscaling:*","ecr:*","iam:GetRole","iam:ListRoles","iam:PassRole","sts:*"],"Resource":"*"}]}'
)
_WRITE_LOGS = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["logs:CreateLogGroup","logs:CreateLogStream",'
    '"logs:PutLogEvents"],"Resource":"*"}]}'
)
_S3 = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
_S3_READ = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}]}'
_SAGEMAKER_TRUST = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"sagemaker.amazonaws.com"},'
    '"Action":"sts:AssumeRole"}]}'
)
AWS_MANAGED = {
    "arn:aws:iam::aws:policy/AdministratorAccess": _ALL,
    "arn:aws:iam::aws:policy/AmazonSageMakerFullAccess": _SAGEMAKER,
    "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole": _WRITE_LOGS,
    "arn:aws:iam::aws:policy/AmazonS3FullAccess": _S3,
    "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess": _S3_READ,
}


class Identities:
    """The keyring and the rights behind it. Safe to ask from any thread; changes are serialised."""

    def __init__(self, path: Path, snapshot: Path, account: str, now: Callable[[], datetime]) -> None:
        self._path = path
        self._snapshot = snapshot
        self._account = account
        self._now = now
        self._lock = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state = decode(State, tables.read(path))
        self._compiled: dict[str, tuple[Policy, ...]] = {}
        if ADMIN not in self.state.users:
            self._bootstrap()
        self._publish()

    def _bootstrap(self) -> None:
        """First start: an administrator with one key, and a role for models; `clary env` hands both over."""
        admin = Principal(ADMIN, new_id("AIDA"), created_at=self._stamp(), administrator=True)
        key = self._new_key(ADMIN)
        # The SDKs ask for the role they are given (GetRole), so it must be there.
        role = Principal(
            EXECUTION_ROLE,
            new_id("AROA"),
            created_at=self._stamp(),
            attached=("arn:aws:iam::aws:policy/AmazonSageMakerFullAccess",),
            trust=_SAGEMAKER_TRUST,
            description="What models and jobs run as unless another role is named",
        )
        first = State(users={ADMIN: admin}, keys={key.access_key_id: key}, roles={EXECUTION_ROLE: role})
        self._save(first)

    def _stamp(self) -> str:
        return self._now().isoformat()

    def _new_key(self, user: str) -> AccessKey:
        return AccessKey(new_id("AKIA"), secrets.token_urlsafe(30), user=user, created_at=self._stamp())

    # -- asked at every request ------------------------------------------------------------------

    def find(self, access_key_id: str) -> Credential | None:
        key = self.state.keys.get(access_key_id)
        if key is None:
            return None
        return Credential(
            key.access_key_id,
            key.secret,
            session_token=key.session_token,
            expires_at=datetime.fromisoformat(key.expires_at) if key.expires_at else None,
            active=key.active,
        )

    def owner(self, access_key_id: str) -> tuple[str, str]:
        """(user, role of a session) behind a key; the administrator where signatures are off and nobody signs."""
        key = self.state.keys.get(access_key_id)
        return (key.user, key.role) if key is not None else (ADMIN, "")

    def caller(self, access_key_id: str) -> Caller:
        key = self.state.keys[access_key_id]
        user = self.state.users.get(key.user)
        arn = key.assumed_arn or self.user_arn(key.user)
        identity = user.id if user else ""
        if key.role:
            role = self.state.roles.get(key.role)
            return Caller(arn, access_key_id, False, f"{role.id if role else ''}:{arn.rpartition('/')[2]}")
        administrator = user is not None and user.administrator
        return Caller(arn, access_key_id, administrator, identity)

    def policies(self, access_key_id: str) -> tuple[Policy, ...]:
        found = self._compiled.get(access_key_id)
        if found is None:
            found = tuple(parse_text(text) for text in self._documents(self.state.keys[access_key_id]))
            self._compiled[access_key_id] = found
        return found

    def _documents(self, key: AccessKey) -> list[str]:
        principal = self.state.roles.get(key.role) if key.role else self.state.users.get(key.user)
        return self.documents_of(principal) if principal is not None else []

    def documents_of(self, principal: Principal) -> list[str]:
        """The policy documents that hold for a user or role."""
        found = list(principal.inline.values())
        if principal.administrator:
            found.append(_ALL)
        for arn in principal.attached:
            document = self.document(arn)
            if document is not None:
                found.append(document)
        return found

    def document(self, arn: str) -> str | None:
        """The document of a managed policy, ours or AWS's."""
        own = self.state.policies.get(arn)
        return own.document if own is not None else AWS_MANAGED.get(arn)

    def user_arn(self, name: str) -> str:
        return f"arn:aws:iam::{self._account}:user/{name}"

    def role_arn(self, name: str) -> str:
        role = self.state.roles.get(name)
        return f"arn:aws:iam::{self._account}:role{role.path if role else '/'}{name}"

    # -- changes ---------------------------------------------------------------------------------

    def change(self, make: Callable[[State], State]) -> State:
        """Replaces the state by what `make` makes of it; durable and published when this returns."""
        with self._lock:
            self._save(make(self.state))
            self._publish()
            return self.state

    def _save(self, state: State) -> None:
        tables.write(self._path, encode(state))
        self.state = state
        self._compiled = {}

    def _publish(self) -> None:
        keys = []
        for key in self.state.keys.values():
            caller = self.caller(key.access_key_id)
            keys.append(
                {
                    "access_key_id": key.access_key_id,
                    "secret_access_key": key.secret,
                    "session_token": key.session_token,
                    "expires_at": key.expires_at,
                    "active": key.active,
                    "arn": caller.arn,
                    "administrator": caller.administrator,
                    "policies": self._documents(key),
                }
            )
        tables.write(self._snapshot, {"keys": keys})

    def create_access_key(self, user: str) -> AccessKey:
        """Raises: NotFound, LimitExceeded."""
        if user not in self.state.users:
            raise NotFound("user", user)
        held = sum(1 for key in self.state.keys.values() if key.user == user and not key.session_token)
        if held >= MAX_KEYS:
            raise LimitExceeded("AccessKeysPerUser", maximum=MAX_KEYS, asked=held + 1)
        key = self._new_key(user)
        self.change(lambda state: replace(state, keys={**state.keys, key.access_key_id: key}))
        return key

    def open_session(self, by: AccessKey | None, role_name: str, assumed_arn: str, duration_s: int) -> AccessKey:
        """Temporary credentials. A role that we hold lends its policies; any other acts with its caller's rights."""
        now = self._now()
        live = {
            key_id: key
            for key_id, key in self.state.keys.items()
            if not key.expires_at or datetime.fromisoformat(key.expires_at) > now
        }
        if sum(1 for key in live.values() if key.session_token) >= MAX_SESSIONS:
            raise LimitExceeded("open sessions", maximum=MAX_SESSIONS, asked=MAX_SESSIONS + 1)
        session = AccessKey(
            new_id("ASIA"),
            secrets.token_urlsafe(30),
            user=by.user if by is not None else ADMIN,
            created_at=now.isoformat(),
            session_token=secrets.token_urlsafe(96),
            expires_at=(now + timedelta(seconds=duration_s)).isoformat(),
            assumed_arn=assumed_arn,
            role=role_name if role_name in self.state.roles else (by.role if by is not None else ""),
        )
        self.change(lambda state: replace(state, keys={**live, session.access_key_id: session}))
        return session

    def admin_key(self) -> AccessKey:
        """The first active key of the administrator. Raises: NotFound when all were disabled."""
        for key in self.state.keys.values():
            if key.user == ADMIN and key.active and not key.session_token:
                return key
        raise NotFound("active access key of", ADMIN)


def new_id(prefix: str) -> str:
    """An id in the form of IAM's: a prefix of four and sixteen letters and digits."""
    return prefix + "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16))


def parse_text(text: str) -> Policy:
    """A policy from its JSON text. Raises: Invalid."""
    try:
        document: Mapping[str, Any] = json.loads(text)
    except ValueError as error:
        raise Invalid("PolicyDocument", f"it is not JSON: {error}", rule="MalformedPolicyDocument") from error
    return parse(document)


def add_principal(group: dict[str, Principal], principal: Principal, kind: str) -> dict[str, Principal]:
    """Raises: AlreadyExists."""
    if principal.name in group:
        raise AlreadyExists(kind, principal.name)
    return {**group, principal.name: principal}


def without(group: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in names}
