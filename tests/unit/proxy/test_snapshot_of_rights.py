"""The data plane's view of keys and policies: what is granted holds at once, what is torn is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clary import tables
from clary.proxy.answers import Refusal
from clary.proxy.authentication import Authenticator, Caller

TARGET = "/endpoints/e/invocations"


def key(*documents: dict[str, Any]) -> dict[str, Any]:
    return {
        "access_key_id": "AKIATEST",
        "secret_access_key": "secret",
        "arn": "arn:aws:iam::123456789012:user/u",
        "policies": [json.dumps({"Version": "2012-10-17", "Statement": [one]}) for one in documents],
    }


ASK = {"Effect": "Allow", "Action": "sagemaker:InvokeEndpoint", "Resource": "*"}


def sent(authenticator: Authenticator) -> Caller | Refusal:
    request = AWSRequest("POST", f"http://localhost{TARGET}", data=b"x")
    SigV4Auth(Credentials("AKIATEST", "secret"), "sagemaker", "us-east-1").add_auth(request)
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    return authenticator.check(b"POST", TARGET.encode(), [*headers, (b"host", b"localhost")], b"x")


def test_a_new_key_and_a_new_policy_hold_with_their_first_request(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    tables.write(path, {"keys": []})
    authenticator = Authenticator(path, "123456789012", required=True, loopback=True)
    refused = sent(authenticator)
    assert isinstance(refused, Refusal)
    assert refused.code == "UnrecognizedClientException"
    tables.write(path, {"keys": [key()]})
    caller = sent(authenticator)
    assert isinstance(caller, Caller)
    assert authenticator.authorize(caller, "us-east-1", "e", "sagemaker:InvokeEndpoint") is not None
    tables.write(path, {"keys": [key(ASK)]})
    assert authenticator.authorize(caller, "us-east-1", "e", "sagemaker:InvokeEndpoint") is None


def test_a_torn_snapshot_leaves_the_last_whole_one_in_force(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    tables.write(path, {"keys": [key(ASK)]})
    authenticator = Authenticator(path, "123456789012", required=True, loopback=True)
    path.write_text(path.read_text()[:-5])
    assert not authenticator.refresh()
    assert isinstance(sent(authenticator), Caller)
