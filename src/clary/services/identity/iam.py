"""IAM, as far as SDKs, notebooks and platform teams use it: roles, users, keys, policies, and their evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote

from clary.domain.errors import AlreadyExists, ClaryError, Conflict, Invalid, LimitExceeded, NotFound
from clary.domain.policy import Decision, evaluate
from clary.services.base import Context, Handler, Members, common_error, present
from clary.store.identities import (
    ADMIN,
    Identities,
    ManagedPolicy,
    Principal,
    State,
    add_principal,
    new_id,
    parse_text,
    without,
)
from clary.wire.errors import WireError

_DECISIONS = {
    Decision.ALLOW: "allowed",
    Decision.EXPLICIT_DENY: "explicitDeny",
    Decision.IMPLICIT_DENY: "implicitDeny",
}
_WORDS = {"role": "The role with name {} cannot be found.", "user": "The user with name {} cannot be found."}


class Iam:
    """The `iam` service. Names are per account; everything is durable when it is answered."""

    name = "iam"

    def __init__(self, identities: Identities, account: str, now: Callable[[], datetime]) -> None:
        self._identities = identities
        self._account = account
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "CreateRole": self.create_role,
            "GetRole": self.get_role,
            "ListRoles": self.list_roles,
            "DeleteRole": self.delete_role,
            "CreateUser": self.create_user,
            "GetUser": self.get_user,
            "ListUsers": self.list_users,
            "DeleteUser": self.delete_user,
            "CreateAccessKey": self.create_access_key,
            "ListAccessKeys": self.list_access_keys,
            "UpdateAccessKey": self.update_access_key,
            "DeleteAccessKey": self.delete_access_key,
            "CreatePolicy": self.create_policy,
            "GetPolicy": self.get_policy,
            "DeletePolicy": self.delete_policy,
            "SimulatePrincipalPolicy": self.simulate_principal_policy,
            **self._policy_operations("Role", "roles"),
            **self._policy_operations("User", "users"),
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound(kind=kind, name=name):
                return WireError("NoSuchEntity", 404, _WORDS.get(kind, f"{kind} {{}} cannot be found.").format(name))
            case AlreadyExists(kind=kind, name=name):
                return WireError("EntityAlreadyExists", 409, f"{kind.capitalize()} with name {name} already exists.")
            case LimitExceeded(limit=limit, maximum=maximum):
                return WireError("LimitExceeded", 409, f"Cannot exceed quota for {limit}: {maximum}")
            case Conflict():
                return WireError("DeleteConflict", 409, str(error))
            case Invalid(rule="MalformedPolicyDocument"):
                return WireError("MalformedPolicyDocument", 400, str(error))
            case _:
                return common_error(error, denied="AccessDenied", invalid="ValidationError")

    def _arn(self, kind: str, path: str, name: str) -> str:
        return f"arn:aws:iam::{self._account}:{kind}{path}{name}"

    # -- roles and users -------------------------------------------------------------------------

    async def create_role(self, context: Context, request: Members) -> Members:
        name = request["RoleName"]
        context.authorize("iam:CreateRole", self._arn("role", request.get("Path", "/"), name))
        _must_be_json(request["AssumeRolePolicyDocument"])
        role = Principal(
            name,
            new_id("AROA"),
            path=request.get("Path", "/"),
            created_at=self._now().isoformat(),
            trust=request["AssumeRolePolicyDocument"],
            description=request.get("Description", ""),
            max_session_s=request.get("MaxSessionDuration", 3600),
        )
        self._identities.change(lambda state: replace(state, roles=add_principal(state.roles, role, "role")))
        return {"Role": self._role(role)}

    async def get_role(self, context: Context, request: Members) -> Members:
        context.authorize("iam:GetRole", self._arn("role", "/", request["RoleName"]))
        return {"Role": self._role(self._need("roles", request["RoleName"]))}

    async def list_roles(self, context: Context, request: Members) -> Members:
        context.authorize("iam:ListRoles", "*")
        return self._page("Roles", "roles", self._role, request)

    async def delete_role(self, context: Context, request: Members) -> Members:
        name = request["RoleName"]
        context.authorize("iam:DeleteRole", self._arn("role", "/", name))
        role = self._need("roles", name)
        if role.inline or role.attached:
            raise Conflict(f"role {name}", "Cannot delete entity, must delete policies first.")
        self._identities.change(lambda state: replace(state, roles=without(state.roles, [name])))
        return {}

    async def create_user(self, context: Context, request: Members) -> Members:
        name = request["UserName"]
        context.authorize("iam:CreateUser", self._arn("user", request.get("Path", "/"), name))
        user = Principal(name, new_id("AIDA"), path=request.get("Path", "/"), created_at=self._now().isoformat())
        self._identities.change(lambda state: replace(state, users=add_principal(state.users, user, "user")))
        return {"User": self._user(user)}

    async def get_user(self, context: Context, request: Members) -> Members:
        key = self._identities.state.keys.get(context.caller.access_key_id)
        name = request.get("UserName") or (key.user if key is not None else ADMIN)
        context.authorize("iam:GetUser", self._arn("user", "/", name))
        return {"User": self._user(self._need("users", name))}

    async def list_users(self, context: Context, request: Members) -> Members:
        context.authorize("iam:ListUsers", "*")
        return self._page("Users", "users", self._user, request)

    async def delete_user(self, context: Context, request: Members) -> Members:
        name = request["UserName"]
        context.authorize("iam:DeleteUser", self._arn("user", "/", name))
        user = self._need("users", name)
        if name == ADMIN:
            raise Conflict(f"user {name}", "it is this server's administrator")
        own = [key for key in self._identities.state.keys.values() if key.user == name]
        if user.inline or user.attached or any(not key.session_token for key in own):
            raise Conflict(f"user {name}", "Cannot delete entity, must delete access keys and policies first.")
        # Sessions of roles last; those with the user's own rights do not wait for another user of that name.
        ended = [key.access_key_id for key in own if not key.role]
        self._identities.change(
            lambda state: replace(state, users=without(state.users, [name]), keys=without(state.keys, ended))
        )
        return {}

    # -- keys ------------------------------------------------------------------------------------

    async def create_access_key(self, context: Context, request: Members) -> Members:
        name = request.get("UserName") or self._own_name(context)
        context.authorize("iam:CreateAccessKey", self._arn("user", "/", name))
        key = self._identities.create_access_key(name)
        return {
            "AccessKey": {
                "UserName": name,
                "AccessKeyId": key.access_key_id,
                "Status": "Active",
                "SecretAccessKey": key.secret,
                "CreateDate": datetime.fromisoformat(key.created_at),
            }
        }

    async def list_access_keys(self, context: Context, request: Members) -> Members:
        name = request.get("UserName") or self._own_name(context)
        context.authorize("iam:ListAccessKeys", self._arn("user", "/", name))
        self._need("users", name)
        held = [key for key in self._identities.state.keys.values() if key.user == name and not key.session_token]
        return {
            "AccessKeyMetadata": [
                {
                    "UserName": name,
                    "AccessKeyId": key.access_key_id,
                    "Status": "Active" if key.active else "Inactive",
                    "CreateDate": datetime.fromisoformat(key.created_at),
                }
                for key in held
            ],
            "IsTruncated": False,
        }

    async def update_access_key(self, context: Context, request: Members) -> Members:
        key_id = self._own_key(context, "iam:UpdateAccessKey", request)
        active = request["Status"] == "Active"

        def change(state: State) -> State:
            return replace(state, keys={**state.keys, key_id: replace(state.keys[key_id], active=active)})

        self._identities.change(change)
        return {}

    async def delete_access_key(self, context: Context, request: Members) -> Members:
        key_id = self._own_key(context, "iam:DeleteAccessKey", request)
        self._identities.change(lambda state: replace(state, keys=without(state.keys, [key_id])))
        return {}

    def _own_key(self, context: Context, action: str, request: Members) -> str:
        name = request.get("UserName") or self._own_name(context)
        context.authorize(action, self._arn("user", "/", name))
        key = self._identities.state.keys.get(request["AccessKeyId"])
        if key is None or key.user != name:
            raise NotFound("access key", request["AccessKeyId"])
        return key.access_key_id

    def _own_name(self, context: Context) -> str:
        key = self._identities.state.keys.get(context.caller.access_key_id)
        return key.user if key is not None else ADMIN

    # -- policies --------------------------------------------------------------------------------

    async def create_policy(self, context: Context, request: Members) -> Members:
        arn = self._arn("policy", request.get("Path", "/"), request["PolicyName"])
        context.authorize("iam:CreatePolicy", arn)
        parse_text(request["PolicyDocument"])
        policy = ManagedPolicy(
            request["PolicyName"], arn, new_id("ANPA"), request["PolicyDocument"], self._now().isoformat()
        )

        def change(state: State) -> State:
            if arn in state.policies:
                raise AlreadyExists("policy", policy.name)
            return replace(state, policies={**state.policies, arn: policy})

        self._identities.change(change)
        return {"Policy": _policy(policy)}

    async def get_policy(self, context: Context, request: Members) -> Members:
        context.authorize("iam:GetPolicy", request["PolicyArn"])
        policy = self._identities.state.policies.get(request["PolicyArn"])
        if policy is None:
            raise NotFound("policy", request["PolicyArn"])
        return {"Policy": _policy(policy)}

    async def delete_policy(self, context: Context, request: Members) -> Members:
        arn = request["PolicyArn"]
        context.authorize("iam:DeletePolicy", arn)
        state = self._identities.state
        if arn not in state.policies:
            raise NotFound("policy", arn)
        if any(arn in one.attached for one in [*state.roles.values(), *state.users.values()]):
            raise Conflict(f"policy {arn}", "Cannot delete a policy attached to entities.")
        self._identities.change(lambda state: replace(state, policies=without(state.policies, [arn])))
        return {}

    def _policy_operations(self, kind: str, group: str) -> dict[str, Handler]:
        """Put, Get, List, Delete of inline policies and Attach, Detach, ListAttached of managed ones."""
        name_member = f"{kind}Name"

        def edit(name: str, change: Callable[[Principal], Principal]) -> None:
            def make(state: State) -> State:
                held = cast(dict[str, Principal], getattr(state, group))
                if name not in held:
                    raise NotFound(kind.lower(), name)
                changed = {**held, name: change(held[name])}
                return replace(state, roles=changed) if group == "roles" else replace(state, users=changed)

            self._identities.change(make)

        def allowed(context: Context, action: str, request: Members) -> str:
            context.authorize(f"iam:{action}", self._arn(kind.lower(), "/", request[name_member]))
            return str(request[name_member])

        async def put(context: Context, request: Members) -> Members:
            name = allowed(context, f"Put{kind}Policy", request)
            parse_text(request["PolicyDocument"])
            inline = {request["PolicyName"]: request["PolicyDocument"]}
            edit(name, lambda one: replace(one, inline={**one.inline, **inline}))
            return {}

        async def get(context: Context, request: Members) -> Members:
            one = self._need(group, allowed(context, f"Get{kind}Policy", request))
            document = one.inline.get(request["PolicyName"])
            if document is None:
                raise NotFound("policy", request["PolicyName"])
            return {name_member: one.name, "PolicyName": request["PolicyName"], "PolicyDocument": quote(document)}

        async def listed(context: Context, request: Members) -> Members:
            one = self._need(group, allowed(context, f"List{kind}Policies", request))
            return {"PolicyNames": sorted(one.inline), "IsTruncated": False}

        async def delete(context: Context, request: Members) -> Members:
            name = allowed(context, f"Delete{kind}Policy", request)
            if request["PolicyName"] not in self._need(group, name).inline:
                raise NotFound("policy", request["PolicyName"])
            edit(name, lambda one: replace(one, inline=without(one.inline, [request["PolicyName"]])))
            return {}

        async def attach(context: Context, request: Members) -> Members:
            name = allowed(context, f"Attach{kind}Policy", request)
            arn = request["PolicyArn"]
            if self._identities.document(arn) is None:
                raise NotFound("policy", arn)
            edit(name, lambda one: replace(one, attached=tuple(dict.fromkeys((*one.attached, arn)))))
            return {}

        async def detach(context: Context, request: Members) -> Members:
            name = allowed(context, f"Detach{kind}Policy", request)
            arn = request["PolicyArn"]
            if arn not in self._need(group, name).attached:
                raise NotFound("policy", arn)
            edit(name, lambda one: replace(one, attached=tuple(held for held in one.attached if held != arn)))
            return {}

        async def attached(context: Context, request: Members) -> Members:
            one = self._need(group, allowed(context, f"ListAttached{kind}Policies", request))
            held = [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in one.attached]
            return {"AttachedPolicies": held, "IsTruncated": False}

        return {
            f"Put{kind}Policy": put,
            f"Get{kind}Policy": get,
            f"List{kind}Policies": listed,
            f"Delete{kind}Policy": delete,
            f"Attach{kind}Policy": attach,
            f"Detach{kind}Policy": detach,
            f"ListAttached{kind}Policies": attached,
        }

    async def simulate_principal_policy(self, context: Context, request: Members) -> Members:
        """The same evaluation that requests get; a role that we do not hold acts with its caller's rights."""
        source = request["PolicySourceArn"]
        context.authorize("iam:SimulatePrincipalPolicy", source)
        name, state = source.rpartition("/")[2], self._identities.state
        if ":assumed-role/" in source:
            name = source.split("/")[1]
        principal = state.users.get(name) if ":user/" in source else state.roles.get(name)
        results = []
        for action in request["ActionNames"]:
            for resource in request.get("ResourceArns") or ["*"]:
                decision = self._decide(context, principal, action, resource)
                results.append(
                    {
                        "EvalActionName": action,
                        "EvalResourceName": resource,
                        "EvalDecision": _DECISIONS[decision],
                        "MatchedStatements": [],
                        "MissingContextValues": [],
                    }
                )
        return {"EvaluationResults": results, "IsTruncated": False}

    def _decide(self, context: Context, principal: Principal | None, action: str, resource: str) -> Decision:
        if principal is not None:
            policies = tuple(parse_text(text) for text in self._identities.documents_of(principal))
            return evaluate(policies, action, resource, {})
        if context.caller.administrator:
            return Decision.ALLOW
        return evaluate(self._identities.policies(context.caller.access_key_id), action, resource, {})

    # -- small steps -----------------------------------------------------------------------------

    def _need(self, group: str, name: str) -> Principal:
        found = cast(dict[str, Principal], getattr(self._identities.state, group)).get(name)
        if found is None:
            raise NotFound(group.removesuffix("s"), name)
        return found

    def _page(self, member: str, group: str, shown: Callable[[Principal], Members], request: Members) -> Members:
        prefix = request.get("PathPrefix", "/")
        held = cast(dict[str, Principal], getattr(self._identities.state, group))
        names = sorted(name for name, one in held.items() if one.path.startswith(prefix))
        after = request.get("Marker", "")
        limit = request.get("MaxItems", 100)
        wanted = [name for name in names if name > after]
        page: dict[str, Any] = {
            member: [shown(held[name]) for name in wanted[:limit]],
            "IsTruncated": len(wanted) > limit,
        }
        return page | ({"Marker": wanted[limit - 1]} if len(wanted) > limit else {})

    def _role(self, role: Principal) -> Members:
        return present(
            Path=role.path,
            RoleName=role.name,
            RoleId=role.id,
            Arn=self._arn("role", role.path, role.name),
            CreateDate=datetime.fromisoformat(role.created_at),
            AssumeRolePolicyDocument=quote(role.trust),
            Description=role.description or None,
            MaxSessionDuration=role.max_session_s,
        )

    def _user(self, user: Principal) -> Members:
        return {
            "Path": user.path,
            "UserName": user.name,
            "UserId": user.id,
            "Arn": self._arn("user", user.path, user.name),
            "CreateDate": datetime.fromisoformat(user.created_at),
        }


def _policy(policy: ManagedPolicy) -> Members:
    return {
        "PolicyName": policy.name,
        "PolicyId": policy.id,
        "Arn": policy.arn,
        "Path": "/",
        "DefaultVersionId": "v1",
        "IsAttachable": True,
        "CreateDate": datetime.fromisoformat(policy.created_at),
    }


def _must_be_json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise Invalid("AssumeRolePolicyDocument", f"it is not JSON: {error}", rule="MalformedPolicyDocument") from error
