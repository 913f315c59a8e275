"""A schedule's universal target: CreateTransformJob called as its role, through the same handler that clients reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clary.control.sessions import RoleSessions
from clary.controllers.calls import Failed
from clary.domain.errors import AccessDenied, AlreadyExists, Invalid, NotFound, Unsupported
from clary.domain.policy import Decision, evaluate
from clary.services.base import Context, Handler
from clary.store.calls import Call
from clary.store.identities import Identities
from clary.wire import catalog
from clary.wire.errors import WireError
from clary.wire.validate import check

OPERATION = "CreateTransformJob"
SESSION_S = 900


class TransformJobTarget:
    """See the module. The call's id is the client's token, so a call that is made twice is one job."""

    def __init__(self, handler: Handler, identities: Identities, sessions: RoleSessions) -> None:
        self._handler = handler
        self._identities = identities
        self._sessions = sessions

    def check(self, members: Mapping[str, Any]) -> None:
        """Raises: Invalid with what the operation would say."""
        call = catalog.Call("sagemaker", "json", catalog.operation("sagemaker", OPERATION))
        try:
            check(call, members)
        except WireError as error:
            raise Invalid("Input", error.message) from error

    async def __call__(self, call: Call) -> None:
        """Raises: Failed, StoreFailed."""
        try:
            members = json.loads(call.body)
            self.check(members)
            await self._handler(self._context(call), members)
        except (Invalid, Unsupported, NotFound, AlreadyExists, AccessDenied, ValueError) as error:
            raise Failed(str(error), final=True) from error

    def _context(self, call: Call) -> Context:
        terms = call.terms
        keys = self._sessions.open(terms.role_arn, terms.user, terms.user_role, "scheduler", SESSION_S)
        caller = self._identities.caller(keys.access_key_id)
        policies = self._identities.policies(keys.access_key_id)

        def authorize(action: str, resource: str) -> None:
            if caller.administrator:
                return
            decision = evaluate(policies, action, resource, {})
            if decision is not Decision.ALLOW:
                reason = f"{caller.arn} has {'an explicit deny' if decision is Decision.EXPLICIT_DENY else 'no policy'}"
                raise AccessDenied(action=action, resource=resource, reason=reason)

        return Context(place=call.place, caller=caller, request_id=call.id, token=call.id, authorize=authorize)
