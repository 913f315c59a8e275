"""Policy evaluation and the checks on documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary.domain.errors import Invalid
from clary.domain.policy import (
    Condition,
    Context,
    Decision,
    Effect,
    Policy,
    Statement,
    Use,
    evaluate,
    matching,
    parse,
    trusts,
)
from clary.domain.policy_match import like

ENDPOINT = "arn:aws:sagemaker:us-east-1:111122223333:endpoint/churn"
INVOKE = "sagemaker:InvokeEndpoint"


def policy(*statements: dict[str, Any]) -> Policy:
    return parse({"Version": "2012-10-17", "Statement": list(statements)})


def allow(**elements: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "*", "Resource": "*"} | elements


def deny(**elements: Any) -> dict[str, Any]:
    return allow(**elements) | {"Effect": "Deny"}


def decide(*statements: dict[str, Any], action: str = INVOKE, resource: str = ENDPOINT, **context: Any) -> Decision:
    return evaluate([policy(*statements)], action, resource, {key.replace("__", ":"): v for key, v in context.items()})


def test_without_a_policy_nothing_is_allowed() -> None:
    assert evaluate([], INVOKE, ENDPOINT, {}) is Decision.IMPLICIT_DENY


def test_an_explicit_deny_wins_wherever_it_stands() -> None:
    yes, no = policy(allow()), policy(deny(Action="sagemaker:Invoke*"))
    for policies in ([yes, no], [no, yes]):
        assert evaluate(policies, INVOKE, ENDPOINT, {}) is Decision.EXPLICIT_DENY
        assert evaluate(policies, "sagemaker:DescribeEndpoint", ENDPOINT, {}) is Decision.ALLOW


@pytest.mark.parametrize(
    ("elements", "want"),
    [
        ({"Action": "sagemaker:InvokeEndpoint"}, True),
        ({"Action": "SageMaker:invokeendpoint"}, True),
        ({"Action": ["s3:GetObject", "sagemaker:Invoke*"]}, True),
        ({"Action": "sagemaker:InvokeEndpoin?"}, True),
        ({"Action": "sagemaker:InvokeEndpoint?"}, False),
        ({"Action": "sagemaker:Invoke"}, False),
        ({"Action": "sagemaker:InvokeEndpointAsync"}, False),
    ],
)
def test_actions_match_without_case_and_with_wildcards(elements: dict[str, Any], want: bool) -> None:
    assert decide(allow(**elements)) is (Decision.ALLOW if want else Decision.IMPLICIT_DENY)


def test_not_action_is_all_but_those() -> None:
    statement = {"Effect": "Allow", "NotAction": ["iam:*", "sts:*"], "Resource": "*"}
    assert decide(statement) is Decision.ALLOW
    assert decide(statement, action="iam:PassRole") is Decision.IMPLICIT_DENY


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        (ENDPOINT, True),
        ("arn:aws:sagemaker:*:*:endpoint/churn", True),
        ("arn:aws:sagemaker:*:*:endpoint/ch*", True),
        ("arn:aws:sagemaker:us-east-1:111122223333:endpoint/Churn", False),
        ("arn:aws:sagemaker:eu-west-1:*:endpoint/*", False),
        ("arn:aws:sagemaker:*:*:model/*", False),
        ("arn:aws:sagemaker:*:endpoint/*", False),  # a wildcard does not reach over a colon of the first five
        ("*", True),
    ],
)
def test_resources_match_part_by_part_and_with_case(pattern: str, want: bool) -> None:
    assert decide(allow(Resource=pattern)) is (Decision.ALLOW if want else Decision.IMPLICIT_DENY)


def test_a_deny_reaches_further_than_an_allow() -> None:
    loose = "arn:aws:sagemaker:*:endpoint/*"
    assert decide(allow(), deny(Resource=loose)) is Decision.EXPLICIT_DENY
    assert decide({"Effect": "Allow", "Action": "*", "NotResource": loose}) is Decision.IMPLICIT_DENY
    assert decide(allow(), {"Effect": "Deny", "Action": "*", "NotResource": loose}) is Decision.EXPLICIT_DENY


def test_the_part_behind_the_fifth_colon_may_hold_colons() -> None:
    log = "arn:aws:logs:us-east-1:111122223333:log-group:/aws/sagemaker/Endpoints/churn:log-stream:a"
    assert decide(allow(Resource="arn:aws:logs:*:*:log-group:/aws/sagemaker/*"), resource=log) is Decision.ALLOW


def test_not_resource_is_all_but_those() -> None:
    statement = {"Effect": "Deny", "Action": "*", "NotResource": "arn:aws:sagemaker:*:*:endpoint/churn"}
    assert decide(allow(), statement) is Decision.ALLOW
    assert decide(allow(), statement, resource=ENDPOINT + "2") is Decision.EXPLICIT_DENY


HOLDING: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    # operator, {key: policy values}, context, holds
    ("StringEquals", {"aws:ResourceTag/team": "a"}, {"aws:ResourceTag/team": "a"}, True),
    ("StringEquals", {"AWS:resourcetag/Team": ["b", "a"]}, {"aws:ResourceTag/team": "a"}, True),
    ("StringEquals", {"aws:ResourceTag/team": "A"}, {"aws:ResourceTag/team": "a"}, False),
    ("StringEquals", {"aws:ResourceTag/team": "a"}, {}, False),
    ("StringEqualsIfExists", {"aws:ResourceTag/team": "a"}, {}, True),
    ("StringNotEquals", {"aws:ResourceTag/team": "a"}, {}, True),
    ("StringNotEquals", {"aws:ResourceTag/team": ["a", "b"]}, {"aws:ResourceTag/team": "b"}, False),
    ("StringEqualsIgnoreCase", {"aws:username": "ANN"}, {"aws:username": "ann"}, True),
    ("StringLike", {"s3:prefix": ["home/*", ""]}, {"s3:prefix": "home/ann"}, True),
    ("StringLike", {"s3:prefix": "home/?"}, {"s3:prefix": "home/ann"}, False),
    ("StringNotLike", {"sagemaker:TargetModel": "secret-*"}, {"sagemaker:TargetModel": "secret-1"}, False),
    ("StringLike", {"sagemaker:TargetModel": "tenant-a/*"}, {"sagemaker:TargetModel": "tenant-a/m.tar.gz"}, True),
    ("NumericLessThan", {"s3:max-keys": "10"}, {"s3:max-keys": "9"}, True),
    ("NumericLessThan", {"s3:max-keys": 10}, {"s3:max-keys": "10"}, False),
    ("NumericLessThanEquals", {"s3:max-keys": "10"}, {"s3:max-keys": "10"}, True),
    ("NumericGreaterThanEquals", {"s3:max-keys": "10"}, {"s3:max-keys": "9.5"}, False),
    ("NumericNotEquals", {"s3:max-keys": "10"}, {"s3:max-keys": "11"}, True),
    ("DateLessThan", {"aws:CurrentTime": "2026-02-01T00:00:00Z"}, {"aws:CurrentTime": "2026-01-31T23:59:59Z"}, True),
    ("DateGreaterThan", {"aws:EpochTime": "1700000000"}, {"aws:EpochTime": "1600000000"}, False),
    ("Bool", {"aws:SecureTransport": False}, {"aws:SecureTransport": "false"}, True),
    ("Bool", {"aws:SecureTransport": "true"}, {"aws:SecureTransport": "false"}, False),
    ("IpAddress", {"aws:SourceIp": "10.0.0.0/8"}, {"aws:SourceIp": "10.9.8.7"}, True),
    ("IpAddress", {"aws:SourceIp": ["192.168.1.1"]}, {"aws:SourceIp": "192.168.1.2"}, False),
    ("IpAddress", {"aws:SourceIp": "10.0.0.0/8"}, {"aws:SourceIp": "::ffff:10.1.1.1"}, True),
    ("NotIpAddress", {"aws:SourceIp": "2001:db8::/32"}, {"aws:SourceIp": "2001:db8::1"}, False),
    ("ArnLike", {"aws:PrincipalArn": "arn:aws:iam::*:role/*"}, {"aws:PrincipalArn": "arn:aws:iam::1:role/x"}, True),
    (
        "ArnNotEquals",
        {"aws:PrincipalArn": "arn:aws:iam::1:role/x"},
        {"aws:PrincipalArn": "arn:aws:iam::1:role/y"},
        True,
    ),
    ("Null", {"aws:RequestTag/team": "true"}, {}, True),
    ("Null", {"aws:RequestTag/team": "false"}, {}, False),
    ("Null", {"aws:RequestTag/team": "false"}, {"aws:RequestTag/team": "a"}, True),
    ("ForAllValues:StringEquals", {"aws:TagKeys": ["a", "b"]}, {"aws:TagKeys": ["a", "b"]}, True),
    ("ForAllValues:StringEquals", {"aws:TagKeys": ["a", "b"]}, {"aws:TagKeys": ["a", "c"]}, False),
    ("ForAllValues:StringEquals", {"aws:TagKeys": ["a"]}, {}, True),
    ("ForAnyValue:StringEquals", {"aws:TagKeys": ["a"]}, {"aws:TagKeys": ["c", "a"]}, True),
    ("ForAnyValue:StringEquals", {"aws:TagKeys": ["a"]}, {}, False),
    ("ForAnyValue:StringNotEquals", {"aws:TagKeys": ["a"]}, {"aws:TagKeys": ["a", "b"]}, True),
]


@pytest.mark.parametrize(("operator", "keys", "context", "want"), HOLDING)
def test_condition_operators(operator: str, keys: dict[str, Any], context: Context, want: bool) -> None:
    condition = {operator: keys}
    allowed = evaluate([policy(allow(Condition=condition))], INVOKE, ENDPOINT, context)
    assert allowed is (Decision.ALLOW if want else Decision.IMPLICIT_DENY)
    denied = evaluate([policy(allow(), deny(Condition=condition))], INVOKE, ENDPOINT, context)
    assert denied is (Decision.EXPLICIT_DENY if want else Decision.ALLOW)


def test_all_conditions_of_a_statement_must_hold() -> None:
    condition = {"StringEquals": {"aws:username": "ann", "s3:prefix": "x"}}
    assert decide(allow(Condition=condition), aws__username="ann", s3__prefix="x") is Decision.ALLOW
    assert decide(allow(Condition=condition), aws__username="ann", s3__prefix="y") is Decision.IMPLICIT_DENY


UNKNOWN = [
    Condition("StringEquals", "aws:MultiFactorAuthPresent", ("true",)),
    Condition("StringNotEquals", "ec2:Region", ("us-east-1",)),
    Condition("StringEqualsIfExists", "aws:SourceVpc", ("vpc-1",)),
    Condition("Null", "aws:ViaAWSService", ("true",)),
    Condition("StringResembles", "aws:username", ("ann",)),
    Condition("IpAddress", "aws:SourceIp", ("not an address",)),
    Condition("NumericLessThan", "s3:max-keys", ("many",)),
    Condition("Bool", "aws:SecureTransport", ("maybe",)),
    Condition("StringEquals", "aws:username", ("${aws:FederatedProvider}",)),
    Condition("StringNotEquals", "aws:username", ("${aws:FederatedProvider}",)),
]


@pytest.mark.parametrize("condition", UNKNOWN, ids=lambda one: f"{one.operator}-{one.key}")
def test_what_we_cannot_evaluate_never_allows_and_always_denies(condition: Condition) -> None:
    context = {"aws:username": "ann", "aws:SourceIp": "10.0.0.1", "s3:max-keys": "5", "aws:SecureTransport": "true"}
    statement = Statement("", Effect.ALLOW, actions=("*",), resources=("*",), conditions=(condition,))
    assert evaluate([Policy((statement,))], INVOKE, ENDPOINT, context) is Decision.IMPLICIT_DENY
    everything = Statement("", Effect.ALLOW, actions=("*",), resources=("*",))
    refusing = Statement("", Effect.DENY, actions=("*",), resources=("*",), conditions=(condition,))
    assert evaluate([Policy((everything, refusing))], INVOKE, ENDPOINT, context) is Decision.EXPLICIT_DENY


def test_variables_are_filled_literally() -> None:
    home = allow(Action="s3:*", Resource="arn:aws:s3:::home/${aws:username}/*")
    mine, other = "arn:aws:s3:::home/ann/x", "arn:aws:s3:::home/bob/x"
    assert decide(home, action="s3:GetObject", resource=mine, aws__username="ann") is Decision.ALLOW
    assert decide(home, action="s3:GetObject", resource=other, aws__username="ann") is Decision.IMPLICIT_DENY
    assert decide(home, action="s3:GetObject", resource=other, aws__username="*") is Decision.IMPLICIT_DENY
    assert decide(home, action="s3:GetObject", resource=mine) is Decision.IMPLICIT_DENY
    star = allow(Resource="arn:aws:s3:::b/${*}")
    assert decide(star, resource="arn:aws:s3:::b/*") is Decision.ALLOW
    assert decide(star, resource="arn:aws:s3:::b/x") is Decision.IMPLICIT_DENY
    default = allow(Condition={"StringEquals": {"s3:prefix": "${aws:PrincipalTag/team, 'shared'}"}})
    assert decide(default, s3__prefix="shared") is Decision.ALLOW


def test_the_old_version_knows_no_variables() -> None:
    text = {"Version": "2008-10-17", "Statement": allow(Principal="*", Resource="arn:aws:s3:::b/${aws:username}")}
    old = parse(text, use=Use.RESOURCE)
    assert evaluate([old], "s3:GetObject", "arn:aws:s3:::b/ann", {"aws:username": "ann"}) is Decision.IMPLICIT_DENY
    assert evaluate([old], "s3:GetObject", "arn:aws:s3:::b/${aws:username}", {}) is Decision.ALLOW


def test_matching_names_the_statements_that_decided() -> None:
    found = matching([policy(allow(Sid="yes"), deny(Sid="no", Action="s3:*"))], INVOKE, ENDPOINT, {})
    assert [statement.sid for statement in found] == ["yes"]


def test_a_trust_policy_names_who_may_take_the_role() -> None:
    text = {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"Service": ["sagemaker.amazonaws.com"], "AWS": "arn:aws:iam::1:user/ann"},
            "Action": "sts:AssumeRole",
        },
    }
    role = parse(text, use=Use.TRUST)
    assert trusts(role, "Service", ["sagemaker.amazonaws.com"], "sts:AssumeRole", {}) is Decision.ALLOW
    assert trusts(role, "AWS", ["arn:aws:iam::1:user/bob"], "sts:AssumeRole", {}) is Decision.IMPLICIT_DENY
    assert trusts(role, "AWS", ["sagemaker.amazonaws.com"], "sts:AssumeRole", {}) is Decision.IMPLICIT_DENY
    either = ["arn:aws:sts::1:assumed-role/r/s", "arn:aws:iam::1:user/ann"]
    assert trusts(role, "AWS", either, "sts:AssumeRole", {}) is Decision.ALLOW


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_like_agrees_with_its_definition(pattern: str, value: str) -> None:
    def fits(pattern: str, value: str) -> bool:
        if not pattern:
            return not value
        if pattern[0] == "*":
            return fits(pattern[1:], value) or (bool(value) and fits(pattern, value[1:]))
        return bool(value) and pattern[0] in ("?", value[0]) and fits(pattern[1:], value[1:])

    assert like(value, pattern) is fits(pattern, value)


def test_no_pattern_takes_long() -> None:
    # A regular expression of 200 stars would not come back before the test's time limit.
    assert not like("a" * 2000, "*a" * 200 + "b")


MALFORMED: list[tuple[Any, str]] = [
    ("{", "JSON"),
    ("[" * 5000, "JSON"),
    ("[]", "Syntax errors"),
    ({"Version": "2012-10-17"}, "Syntax errors"),
    ({"Statement": []}, "Syntax errors"),
    ({"Statement": [allow()], "Surprise": 1}, "Syntax errors"),
    ({"Version": "2020-01-01", "Statement": [allow()]}, "valid version"),
    ({"Version": "2008-10-17", "Statement": [allow()]}, "2012-10-17 or greater"),
    ({"Statement": [{"Action": "*", "Resource": "*"}]}, "Missing required field Effect"),
    ({"Statement": [allow(Effect="allow")]}, "Invalid effect: allow"),
    ({"Statement": [{"Effect": "Allow", "Resource": "*"}]}, "must contain actions"),
    ({"Statement": [{"Effect": "Allow", "Action": "*"}]}, "must contain resources"),
    ({"Statement": [allow(Action=[])]}, "must contain actions"),
    ({"Statement": [allow(NotAction="s3:*")]}, "Syntax errors"),
    ({"Statement": [allow(Action="InvokeEndpoint")]}, "prefaced by a vendor"),
    ({"Statement": [allow(Action="*:Get")]}, "wildcards"),
    ({"Statement": [allow(Resource="bucket")]}, "ARN format"),
    ({"Statement": [allow(Action={"a": 1})]}, "Syntax errors"),
    ({"Statement": [allow(Sid="a b")]}, "alpha-numeric"),
    ({"Statement": [allow(Sid="a"), deny(Sid="a")]}, "unique"),
    ({"Statement": [allow(Principal="*")]}, "should not specify a principal"),
    ({"Statement": [allow(Condition={"StringResembles": {"aws:username": "x"}})]}, "Invalid Condition type"),
    ({"Statement": [allow(Condition={"Some:StringEquals": {"aws:username": "x"}})]}, "Invalid Condition type"),
    ({"Statement": [allow(Condition={"StringEquals": {"username": "x"}})]}, "prefaced by a vendor"),
    ({"Statement": [allow(Condition={"StringEquals": "x"})]}, "Syntax errors"),
    ({"Statement": [allow(Surprise=1)]}, "Syntax errors"),
]


@pytest.mark.parametrize(("document", "reason"), MALFORMED)
def test_malformed_documents_are_refused_with_iams_reason(document: Any, reason: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(Invalid, match=reason) as caught:
        parse(text)
    assert caught.value.rule == "MalformedPolicyDocument"


def test_trust_policies_have_their_own_rules() -> None:
    base = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"}
    assert parse({"Statement": base}, use=Use.TRUST).statements[0].principals == (("AWS", "*"),)
    for change, reason in (({"Resource": "*"}, "prohibited field"), ({"Principal": {}}, "Invalid principal")):
        with pytest.raises(Invalid, match=reason):
            parse({"Statement": base | change}, use=Use.TRUST)
    with pytest.raises(Invalid, match="Missing required field Principal"):
        parse({"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole"}}, use=Use.TRUST)


def test_a_long_document_is_a_limit_of_its_own() -> None:
    with pytest.raises(Invalid) as caught:
        parse(json.dumps({"Statement": [allow(Resource=["arn:aws:s3:::" + "x" * 100] * 100)]}))
    assert caught.value.rule == "LimitExceeded"
    parse("{" + " " * 20_000 + '"Statement": ' + json.dumps(allow()) + "}")
