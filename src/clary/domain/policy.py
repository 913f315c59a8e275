"""IAM policy evaluation: may this caller do this action on this resource, now? Pure.

Rules, in order (IAM user guide, "Policy evaluation logic"): an explicit Deny that matches ends it; else one Allow that
matches is enough; else the answer is no. A statement matches when its action, its resource and all its conditions do.

What we do not know must never open a door: a condition operator or key that this module cannot evaluate does not match
in an Allow and does match in a Deny. So a policy that says more than we understand gives less, never more.

Policy documents are checked when they are stored (`parse`), with the reasons that IAM gives for a malformed one;
`evaluate` takes only parsed policies. `${aws:username}` and other policy variables are filled from the context; one
without a value makes its pattern match nothing in an Allow and everything in a Deny.

    document text --parse--> Policy(Statement...) --evaluate(action, resource, context)--> Decision
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from clary.domain.errors import Invalid
from clary.domain.policy_match import OPERATORS, Context, arn_like, holds, like, split_operator, tokens

# The largest inline policy of a role, spaces not counted (IAM user guide, "IAM and AWS STS quotas").
DOCUMENT_MAX_CHARACTERS = 10_240
VERSIONS = ("2012-10-17", "2008-10-17")
STATEMENT_KEYS = frozenset(
    {
        *("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"),
        *("Principal", "NotPrincipal"),
    }
)
SID = re.compile(r"[0-9A-Za-z]*")
ACTION = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+")
QUANTIFIERS = ("", "ForAllValues", "ForAnyValue")


class Effect(StrEnum):
    """Of a statement."""

    ALLOW = "Allow"
    DENY = "Deny"


class Decision(StrEnum):
    """Of an evaluation; the values are those of SimulatePrincipalPolicy."""

    ALLOW = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


class Use(StrEnum):
    """IDENTITY policies name no principal; TRUST and RESOURCE policies must."""

    IDENTITY = "identity"
    TRUST = "trust"
    RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key with its values: any value may match (none, for the negated operators)."""

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; exactly one of `actions` and `not_actions` is set, and so for resources and principals.

    Principals are (type, value) pairs such as ("AWS", "*"); empty in identity policies.
    """

    sid: str
    effect: Effect
    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    not_resources: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    principals: tuple[tuple[str, str], ...] = ()
    not_principals: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed document. Only version 2012-10-17 knows policy variables."""

    statements: tuple[Statement, ...]
    variables: bool = True


def evaluate(policies: Sequence[Policy], action: str, resource: str, context: Context) -> Decision:
    """Whether these policies together let `action` ("sagemaker:InvokeEndpoint") happen on the `resource` ARN.

    Principals are not looked at: the caller passes only policies that apply to the identity.
    """
    known = {key.lower(): value for key, value in context.items()}
    allowed = False
    for policy in policies:
        for statement in policy.statements:
            if not _applies(statement, policy.variables, action, resource, known):
                continue
            if statement.effect is Effect.DENY:
                return Decision.EXPLICIT_DENY
            allowed = True
    return Decision.ALLOW if allowed else Decision.IMPLICIT_DENY


def matching(policies: Sequence[Policy], action: str, resource: str, context: Context) -> tuple[Statement, ...]:
    """The statements that apply, for an answer that says why."""
    known = {key.lower(): value for key, value in context.items()}
    return tuple(
        statement
        for policy in policies
        for statement in policy.statements
        if _applies(statement, policy.variables, action, resource, known)
    )


def trusts(policy: Policy, principal_type: str, names: Sequence[str], action: str, context: Context) -> Decision:
    """Whether a trust policy lets a principal ("Service", ["sagemaker.amazonaws.com"]) do `action`.

    `names` are all that it may be called: a session its own ARN, its role's, and its account's.
    """
    statements = tuple(
        statement for statement in policy.statements if _names_principal(statement, principal_type, names)
    )
    return evaluate([Policy(statements, policy.variables)], action, "*", context)


def _applies(statement: Statement, variables: bool, action: str, resource: str, context: Context) -> bool:
    if statement.actions:
        if not any(like(action.lower(), pattern.lower()) for pattern in statement.actions):
            return False
    elif any(like(action.lower(), pattern.lower()) for pattern in statement.not_actions):
        return False
    # How what we cannot tell counts: a Deny applies, an Allow does not. Inside Not* the same gives the reverse.
    unsure = statement.effect is Effect.DENY

    def covers(pattern: str, when_unknown: bool) -> bool:
        filled = tokens(pattern, context if variables else None)
        return when_unknown if filled is None else arn_like(resource, filled, widely=when_unknown)

    if statement.resources:
        if not any(covers(pattern, unsure) for pattern in statement.resources):
            return False
    elif statement.not_resources and any(covers(pattern, not unsure) for pattern in statement.not_resources):
        return False
    return all(
        holds(condition.operator, condition.key, condition.values, context, variables, unsure)
        for condition in statement.conditions
    )


def _names_principal(statement: Statement, kind: str, names: Sequence[str]) -> bool:
    def named(pairs: Sequence[tuple[str, str]]) -> bool:
        return any(value == "*" or (kind == one and value in names) for one, value in pairs)

    if statement.principals:
        return named(statement.principals)
    return bool(statement.not_principals) and not named(statement.not_principals)


# Documents


def parse(
    document: str | Mapping[str, object],
    *,
    use: Use = Use.IDENTITY,
    max_characters: int = DOCUMENT_MAX_CHARACTERS,
) -> Policy:
    """The policy that a document says. Raises: Invalid(rule="MalformedPolicyDocument") with IAM's reason, and
    Invalid(rule="LimitExceeded") for one that is too long."""
    root = _load(document, max_characters) if isinstance(document, str) else document
    if not isinstance(root, Mapping):
        raise _malformed("Syntax errors in policy.")
    if set(root) - {"Version", "Id", "Statement"}:
        raise _malformed("Syntax errors in policy.")
    version = root.get("Version", "2008-10-17")
    if version not in VERSIONS:
        raise _malformed("The policy must contain a valid version string")
    if use is Use.IDENTITY and "Version" in root and version != "2012-10-17":
        raise _malformed("Policy document must be version 2012-10-17 or greater.")
    statements = root.get("Statement")
    if isinstance(statements, Mapping):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise _malformed("Syntax errors in policy.")
    parsed = tuple(_statement(one, use) for one in statements)
    sids = [one.sid for one in parsed if one.sid]
    if len(set(sids)) != len(sids):
        raise _malformed("Statement IDs (SID) in a single policy must be unique.")
    return Policy(parsed, variables=version == "2012-10-17")


def _malformed(reason: str) -> Invalid:
    return Invalid("policy document", reason, rule="MalformedPolicyDocument")


def _load(text: str, max_characters: int) -> object:
    size = sum(not char.isspace() for char in text)
    if size > max_characters:
        raise Invalid(
            "policy document", f"{size} characters without spaces; {max_characters} allowed", rule="LimitExceeded"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed("The policy is not in the valid JSON format.") from error


def _statement(raw: object, use: Use) -> Statement:
    if not isinstance(raw, Mapping) or set(raw) - STATEMENT_KEYS:
        raise _malformed("Syntax errors in policy.")
    sid = raw.get("Sid", "")
    if not isinstance(sid, str) or SID.fullmatch(sid) is None:
        raise _malformed(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression "
            "[0-9A-Za-z]*"
        )
    if "Effect" not in raw:
        raise _malformed("Missing required field Effect")
    if raw["Effect"] not in tuple(Effect):
        raise _malformed(f"Invalid effect: {raw['Effect']}")
    actions, not_actions = _either(raw, "Action", "NotAction", "actions")
    for action in (*actions, *not_actions):
        _check_action(action)
    if use is Use.TRUST and ("Resource" in raw or "NotResource" in raw):
        raise _malformed("Has prohibited field Resource")
    resources: tuple[str, ...] = ("*",)
    not_resources: tuple[str, ...] = ()
    if use is not Use.TRUST:
        resources, not_resources = _either(raw, "Resource", "NotResource", "resources")
    for resource in (*resources, *not_resources):
        if resource != "*" and not resource.startswith(("arn:", "${")):
            raise _malformed(f'Resource {resource} must be in ARN format or "*".')
    principals, not_principals = _principals(raw, use)
    return Statement(
        sid=sid,
        effect=Effect(raw["Effect"]),
        actions=actions,
        not_actions=not_actions,
        resources=resources,
        not_resources=not_resources,
        conditions=_conditions(raw.get("Condition", {})),
        principals=principals,
        not_principals=not_principals,
    )


def _either(raw: Mapping[str, object], name: str, not_name: str, noun: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The values of one of two elements that exclude each other and of which one must be there."""
    if name in raw and not_name in raw:
        raise _malformed("Syntax errors in policy.")
    if name not in raw and not_name not in raw:
        raise _malformed(f"Policy statement must contain {noun}.")
    chosen = _texts(raw[name if name in raw else not_name])
    if not chosen:
        raise _malformed(f"Policy statement must contain {noun}.")
    return (chosen, ()) if name in raw else ((), chosen)


def _check_action(action: str) -> None:
    if action == "*":
        return
    if ":" not in action:
        raise _malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")
    if ACTION.fullmatch(action) is None:
        raise _malformed(f"Action {action} is not valid: vendors must be alpha-numeric and contain no wildcards")


def _principals(raw: Mapping[str, object], use: Use) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    given = [name for name in ("Principal", "NotPrincipal") if name in raw]
    if use is Use.IDENTITY:
        if given:
            raise _malformed("Policy document should not specify a principal.")
        return (), ()
    if len(given) != 1:
        raise _malformed("Missing required field Principal" if not given else "Syntax errors in policy.")
    value = raw[given[0]]
    if value == "*":
        pairs: tuple[tuple[str, str], ...] = (("AWS", "*"),)
    elif isinstance(value, Mapping):
        pairs = tuple((str(kind), one) for kind, names in value.items() for one in _texts(names))
    else:
        pairs = ()
    if not pairs:
        raise _malformed("Invalid principal in policy.")
    return (pairs, ()) if given == ["Principal"] else ((), pairs)


def _conditions(raw: object) -> tuple[Condition, ...]:
    if not isinstance(raw, Mapping):
        raise _malformed("Syntax errors in policy.")
    found: list[Condition] = []
    for operator, keys in raw.items():
        quantifier, name, if_exists = split_operator(str(operator))
        if quantifier not in QUANTIFIERS or not (name in OPERATORS or (name == "Null" and not if_exists)):
            raise _malformed(f"Invalid Condition type : {operator}.")
        if not isinstance(keys, Mapping):
            raise _malformed("Syntax errors in policy.")
        for key, values in keys.items():
            if ":" not in str(key):
                raise _malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")
            found.append(Condition(str(operator), str(key), _texts(values)))
    return tuple(found)


def _texts(value: object) -> tuple[str, ...]:
    """One text or a list of them; booleans and numbers as JSON writes them."""
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    texts = []
    for item in items:
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, bool | int | float):
            texts.append(json.dumps(item))
        else:
            raise _malformed("Syntax errors in policy.")
    return tuple(texts)
