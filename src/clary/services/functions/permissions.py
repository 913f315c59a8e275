"""Resource policies and tags of functions. Policies are kept and shown; who may invoke is told by IAM alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from clary.domain.errors import AlreadyExists, NotFound
from clary.domain.functions import FUNCTION, FunctionDesired, function_arn
from clary.services.base import Context, Members
from clary.services.functions.room import Room, desired_of
from clary.store.codec import encode
from clary.store.resources import Record, Resources

CONDITIONS = {
    "SourceArn": ("ArnLike", "AWS:SourceArn"),
    "SourceAccount": ("StringEquals", "AWS:SourceAccount"),
    "PrincipalOrgID": ("StringEquals", "aws:PrincipalOrgID"),
    "EventSourceToken": ("StringEquals", "lambda:EventSourceToken"),
}


class Permissions(Room):
    """See the module."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.operations = {
            "AddPermission": self.add_permission,
            "RemovePermission": self.remove_permission,
            "GetPolicy": self.get_policy,
            "TagResource": self.tag_resource,
            "UntagResource": self.untag_resource,
            "ListTags": self.list_tags,
        }

    async def add_permission(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "AddPermission", request)
        made = json.dumps(_statement(record, request), separators=(",", ":"))

        def change(desired: FunctionDesired) -> FunctionDesired:
            if any(json.loads(one)["Sid"] == request["StatementId"] for one in desired.statements):
                raise AlreadyExists("statement", request["StatementId"])
            return replace(desired, statements=(*desired.statements, made))

        await self._change(record, change)
        return {"Statement": made}

    async def remove_permission(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "RemovePermission", request)

        def change(desired: FunctionDesired) -> FunctionDesired:
            left = tuple(one for one in desired.statements if json.loads(one)["Sid"] != request["StatementId"])
            if len(left) == len(desired.statements):
                raise NotFound("statement", request["StatementId"])
            return replace(desired, statements=left)

        await self._change(record, change)
        return {}

    async def get_policy(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "GetPolicy", request)
        desired = desired_of(record)
        if not desired.statements:
            raise NotFound("policy of the function", function_arn(record.place, record.name))
        statements = ",".join(desired.statements)
        policy = f'{{"Version":"2012-10-17","Id":"default","Statement":[{statements}]}}'
        return {"Policy": policy, "RevisionId": desired.revision}

    async def _change(self, record: Record, change: Callable[[FunctionDesired], FunctionDesired]) -> None:
        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            found: Mapping[str, Any] = encode(change(desired_of(held)))
            return found

        await self.resources.change(FUNCTION, record.place, record.name, decide)

    # -- tags ------------------------------------------------------------------------------------

    async def tag_resource(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "TagResource", {"FunctionName": request["Resource"]})
        added = [{"Key": key, "Value": value} for key, value in request["Tags"].items()]
        await self.resources.add_tags(record.place.arn(FUNCTION, record.name), added)
        return {}

    async def untag_resource(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "UntagResource", {"FunctionName": request["Resource"]})
        await self.resources.delete_tags(record.place.arn(FUNCTION, record.name), request["TagKeys"])
        return {}

    async def list_tags(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "ListTags", {"FunctionName": request["Resource"]})
        return {"Tags": await self.resources.tags(record.place.arn(FUNCTION, record.name))}


def _statement(record: Record, request: Members) -> Members:
    principal = request["Principal"]
    made: Members = {
        "Sid": request["StatementId"],
        "Effect": "Allow",
        "Principal": "*" if principal == "*" else {"Service" if "." in principal else "AWS": principal},
        "Action": request["Action"],
        "Resource": function_arn(record.place, record.name),
    }
    for member, (operator, key) in CONDITIONS.items():
        if request.get(member):
            made.setdefault("Condition", {}).setdefault(operator, {})[key] = request[member]
    return made
