"""Who may do what, at both doors: the control plane's and, from its own snapshot, the data plane's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, instance, wait_for

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)


def policy(*actions: str, resource: str = "*", effect: str = "Allow") -> str:
    statement = {"Effect": effect, "Action": list(actions), "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def client(clary: Clary, service: str, key: dict[str, str]) -> Any:
    """A client with a key as IAM or STS answers it."""
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=clary.environment()["AWS_ENDPOINT_URL"],
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        aws_session_token=key.get("SessionToken"),
        config=Config(retries={"total_max_attempts": 1}),
    )


def refusal(call: Callable[[], Any]) -> tuple[str, int, str]:
    """(code, status, message) of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def ask(runtime: Any, endpoint: str) -> bytes:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=b"hi", ContentType="text/plain")
    found: bytes = answer["Body"].read()
    return found


def refused_with(runtime: Any, endpoint: str) -> str:
    """The code of the refusal; empty when the endpoint answered."""
    try:
        ask(runtime, endpoint)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


@pytest.fixture(scope="module")
def endpoints(clary: Clary, echo_files: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Two endpoints of one model."""
    model = clary.model(clary.upload(dict(echo_files)), "clary/sklearn")
    names = (clary.endpoint(clary.config(instance(model))), clary.endpoint(clary.config(instance(model))))
    yield names
    for name in names:
        clary.delete(name)


@pytest.fixture
def user(clary: Clary) -> Iterator[tuple[str, dict[str, str]]]:
    """A user without rights, and its key."""
    iam, name = clary.client("iam"), f"u-{uuid.uuid4().hex[:8]}"
    iam.create_user(UserName=name)
    yield name, iam.create_access_key(UserName=name)["AccessKey"]
    for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
        iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
    for held in iam.list_user_policies(UserName=name)["PolicyNames"]:
        iam.delete_user_policy(UserName=name, PolicyName=held)
    iam.delete_user(UserName=name)


def test_a_user_may_ask_the_one_endpoint_its_policy_names(
    clary: Clary, endpoints: tuple[str, str], user: tuple[str, dict[str, str]]
) -> None:
    name, key = user
    mine, other = endpoints
    iam, runtime = clary.client("iam"), client(clary, "sagemaker-runtime", key)
    code, status, message = refusal(lambda: ask(runtime, mine))
    assert (code, status) == ("AccessDeniedException", 403)
    assert f"user/{name}" in message
    assert "sagemaker:InvokeEndpoint" in message
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{mine}"
    iam.put_user_policy(
        UserName=name, PolicyName="one", PolicyDocument=policy("sagemaker:InvokeEndpoint", resource=arn)
    )
    assert ask(runtime, mine) == b"hi"
    assert refusal(lambda: ask(runtime, other))[:2] == ("AccessDeniedException", 403)
    sagemaker = client(clary, "sagemaker", key)
    assert refusal(lambda: sagemaker.delete_endpoint(EndpointName=mine))[0] == "AccessDeniedException"
    assert refusal(sagemaker.list_endpoints)[0] == "AccessDeniedException"
    decisions = {
        (one["EvalActionName"], one["EvalResourceName"]): one["EvalDecision"]
        for one in iam.simulate_principal_policy(
            PolicySourceArn=f"arn:aws:iam::123456789012:user/{name}",
            ActionNames=["sagemaker:InvokeEndpoint", "sagemaker:DeleteEndpoint"],
            ResourceArns=[arn],
        )["EvaluationResults"]
    }
    assert decisions == {
        ("sagemaker:InvokeEndpoint", arn): "allowed",
        ("sagemaker:DeleteEndpoint", arn): "implicitDeny",
    }


def test_a_disabled_key_stops_at_both_doors(
    clary: Clary, endpoints: tuple[str, str], user: tuple[str, dict[str, str]]
) -> None:
    name, key = user
    iam, runtime = clary.client("iam"), client(clary, "sagemaker-runtime", key)
    iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=policy("sagemaker:*"))
    assert ask(runtime, endpoints[0]) == b"hi"
    iam.update_access_key(UserName=name, AccessKeyId=key["AccessKeyId"], Status="Inactive")

    # It stops within a second; the limit leaves room for a busy machine.
    unknown = "UnrecognizedClientException"
    wait_for(lambda: refused_with(runtime, endpoints[0]) == unknown, 5, "the key to stop")
    assert refusal(client(clary, "sagemaker", key).list_models)[0] == "UnrecognizedClientException"
    iam.update_access_key(UserName=name, AccessKeyId=key["AccessKeyId"], Status="Active")
    assert ask(runtime, endpoints[0]) == b"hi"
    iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
    wait_for(lambda: refused_with(runtime, endpoints[0]) == unknown, 5, "the deleted key to stop")


def test_a_session_has_its_roles_rights_and_a_token(clary: Clary, endpoints: tuple[str, str]) -> None:
    iam, sts = clary.client("iam"), clary.client("sts")
    role = f"r-{uuid.uuid4().hex[:8]}"
    arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    iam.put_role_policy(RoleName=role, PolicyName="ask", PolicyDocument=policy("sagemaker:InvokeEndpoint"))
    lent = sts.assume_role(RoleArn=arn, RoleSessionName="story", DurationSeconds=900)
    assert lent["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::123456789012:assumed-role/{role}/story"
    runtime = client(clary, "sagemaker-runtime", lent["Credentials"])
    assert ask(runtime, endpoints[0]) == b"hi"
    assert refusal(client(clary, "sagemaker", lent["Credentials"]).list_models)[0] == "AccessDeniedException"
    who = client(clary, "sts", lent["Credentials"]).get_caller_identity()
    assert who["Arn"] == f"arn:aws:sts::123456789012:assumed-role/{role}/story"
    bare = {name: lent["Credentials"][name] for name in ("AccessKeyId", "SecretAccessKey")}
    assert refusal(client(clary, "sts", bare).get_caller_identity)[1] == 403
    iam.put_role_policy(
        RoleName=role, PolicyName="no", PolicyDocument=policy("sagemaker:*", resource="*", effect="Deny")
    )
    wait_for(lambda: refused_with(runtime, endpoints[0]) == "AccessDeniedException", 5, "the denial to hold")
    for held in ("ask", "no"):
        iam.delete_role_policy(RoleName=role, PolicyName=held)
    iam.delete_role(RoleName=role)


def test_a_role_is_lent_to_whom_its_trust_policy_names(clary: Clary, user: tuple[str, dict[str, str]]) -> None:
    name, key = user
    iam, sts = clary.client("iam"), client(clary, "sts", key)
    iam.put_user_policy(UserName=name, PolicyName="take", PolicyDocument=policy("sts:AssumeRole"))
    mine, account = f"arn:aws:iam::123456789012:user/{name}", "123456789012"
    roles: list[str] = []

    def role(**statement: Any) -> str:
        """The ARN of a new role with such a trust policy."""
        text = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", **statement}]}
        roles.append(f"r-{uuid.uuid4().hex[:8]}")
        arn: str = iam.create_role(RoleName=roles[-1], AssumeRolePolicyDocument=json.dumps(text))["Role"]["Arn"]
        return arn

    def take(arn: str, sts: Any = sts, **more: str) -> dict[str, str]:
        lent: dict[str, str] = sts.assume_role(RoleArn=arn, RoleSessionName="story", **more)["Credentials"]
        return lent

    service = role(Principal={"Service": "sagemaker.amazonaws.com"})
    code, status, message = refusal(lambda: take(service))
    assert (code, status) == ("AccessDenied", 403)
    assert mine in message
    for principal in (mine, f"arn:aws:iam::{account}:root", account):
        assert take(role(Principal={"AWS": principal}))["SessionToken"]
    secret = role(Principal={"AWS": mine}, Condition={"StringEquals": {"sts:ExternalId": "secret"}})
    assert refusal(lambda: take(secret))[0] == "AccessDenied"
    assert take(secret, ExternalId="secret")["SessionToken"]

    # A session asks in its role's name: into a role that names it, and not into one that names the user only.
    first = role(Principal={"AWS": mine})
    iam.put_role_policy(RoleName=roles[-1], PolicyName="on", PolicyDocument=policy("sts:AssumeRole"))
    session = client(clary, "sts", take(first))
    assert take(role(Principal={"AWS": first}), session)["SessionToken"]
    others = role(Principal={"AWS": mine})
    assert refusal(lambda: take(others, session))[0] == "AccessDenied"
    iam.delete_role_policy(RoleName=first.rpartition("/")[2], PolicyName="on")
    for one in roles:
        iam.delete_role(RoleName=one)


def test_a_users_sessions_do_not_keep_it_and_do_not_outlive_it(clary: Clary) -> None:
    iam, name = clary.client("iam"), f"u-{uuid.uuid4().hex[:8]}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    own = client(clary, "sts", client(clary, "sts", key).get_session_token()["Credentials"])
    assert own.get_caller_identity()["Arn"].endswith(f":user/{name}")
    iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
    iam.delete_user(UserName=name)
    assert refusal(own.get_caller_identity)[1] == 403
    iam.create_user(UserName=name)  # another one
    assert refusal(own.get_caller_identity)[1] == 403
    iam.delete_user(UserName=name)


def test_a_user_that_may_not_read_the_archive_makes_no_model_of_it(
    clary: Clary, echo_files: dict[str, str], user: tuple[str, dict[str, str]]
) -> None:
    name, key = user
    uri = clary.upload(dict(echo_files))
    clary.client("iam").put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy("sagemaker:CreateModel"))
    sagemaker = client(clary, "sagemaker", key)
    code, _, message = refusal(
        lambda: sagemaker.create_model(
            ModelName=f"m-{uuid.uuid4().hex[:8]}",
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": "clary/sklearn", "ModelDataUrl": uri},
        )
    )
    assert code == "AccessDeniedException"
    assert "s3:GetObject" in message
