"""STS: GetCallerIdentity, AssumeRole, GetSessionToken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from clary.domain.errors import AccessDenied, ClaryError, Invalid
from clary.domain.policy import Decision, Use, parse, trusts
from clary.services.base import Context, Handler, Members, common_error
from clary.store.identities import AccessKey, Identities, Principal, new_id
from clary.wire.errors import WireError

_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/(?:.*/)?([\w+=,.@-]{1,64})")


class Sts:
    """The `sts` service."""

    name = "sts"

    def __init__(self, identities: Identities, account: str) -> None:
        self._identities = identities
        self._account = account
        self.operations: Mapping[str, Handler] = {
            "GetCallerIdentity": self.get_caller_identity,
            "AssumeRole": self.assume_role,
            "GetSessionToken": self.get_session_token,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        if isinstance(error, AccessDenied):
            return WireError("AccessDenied", 403, str(error))
        return common_error(error, denied="AccessDenied", invalid="ValidationError")

    async def get_caller_identity(self, context: Context, _request: Members) -> Members:
        caller = context.caller
        return {"UserId": caller.user_id or caller.access_key_id, "Account": self._account, "Arn": caller.arn}

    async def assume_role(self, context: Context, request: Members) -> Members:
        match = _ROLE_ARN.fullmatch(request["RoleArn"])
        if match is None:
            raise Invalid("RoleArn", f"{request['RoleArn']} is invalid")
        name = match[2]
        context.authorize("sts:AssumeRole", request["RoleArn"])
        duration_s = request.get("DurationSeconds", 3600)
        role = self._identities.state.roles.get(name)
        if role is not None:
            self._check_trust(context, request, role)
        if role is not None and duration_s > role.max_session_s:
            raise Invalid("DurationSeconds", "The requested DurationSeconds exceeds the MaxSessionDuration of the role")
        session_name = request["RoleSessionName"]
        arn = f"arn:aws:sts::{match[1]}:assumed-role/{name}/{session_name}"
        by = self._identities.state.keys.get(context.caller.access_key_id)
        session = self._identities.open_session(by, name, arn, duration_s)
        identifier = role.id if role is not None else new_id("AROA")
        return {
            "Credentials": _credentials(session),
            "AssumedRoleUser": {"AssumedRoleId": f"{identifier}:{session_name}", "Arn": arn},
        }

    def _check_trust(self, context: Context, request: Members, role: Principal) -> None:
        """Whether the role's trust policy names the caller, or its account. The administrator owns this clary and may
        take every role. Raises: AccessDenied.
        """
        caller = context.caller
        if caller.administrator or not role.trust:
            return
        names = [caller.arn, f"arn:aws:iam::{self._account}:root", self._account]
        key = self._identities.state.keys.get(caller.access_key_id)
        if key is not None and key.role:
            names.append(self._identities.role_arn(key.role))
        told = {"sts:ExternalId": request["ExternalId"]} if "ExternalId" in request else {}
        decision = trusts(parse(role.trust, use=Use.TRUST), "AWS", names, "sts:AssumeRole", told)
        if decision is not Decision.ALLOW:
            raise AccessDenied(
                action="sts:AssumeRole",
                resource=request["RoleArn"],
                reason=f"the role's trust policy does not let {caller.arn} take it",
            )

    async def get_session_token(self, context: Context, request: Members) -> Members:
        by = self._identities.state.keys.get(context.caller.access_key_id)
        session = self._identities.open_session(
            by, by.role if by is not None else "", context.caller.arn, request.get("DurationSeconds", 43200)
        )
        return {"Credentials": _credentials(session)}


def _credentials(session: AccessKey) -> Members:
    assert session.expires_at is not None
    return {
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret,
        "SessionToken": session.session_token,
        "Expiration": datetime.fromisoformat(session.expires_at),
    }
