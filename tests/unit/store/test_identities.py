"""Keys, users and roles as they are found by whoever starts anew."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from clary.domain.policy import Decision, evaluate
from clary.store.identities import ADMIN, EXECUTION_ROLE, Identities, parse_text


def identities(folder: Path) -> Identities:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Identities(folder / "keys" / "identities.json", folder / "identity.json", "123456789012", lambda: now)


def test_first_start_makes_an_administrator_and_the_role_that_clients_are_given(tmp_path: Path) -> None:
    first = identities(tmp_path)
    assert first.caller(first.admin_key().access_key_id).administrator
    role = first.state.roles[EXECUTION_ROLE]
    rights = tuple(parse_text(text) for text in first.documents_of(role))
    for action, decision in (
        ("sagemaker:CreateEndpoint", Decision.ALLOW),
        ("s3:PutObject", Decision.ALLOW),
        ("iam:CreateUser", Decision.IMPLICIT_DENY),
    ):
        assert evaluate(rights, action, "*", {}) is decision, action


def test_a_second_start_finds_what_the_first_left(tmp_path: Path) -> None:
    first = identities(tmp_path)
    second = identities(tmp_path)
    assert second.state == first.state
    assert list(second.state.users) == [ADMIN]
