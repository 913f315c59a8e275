"""Whose rights a thing has that acts later: those of its role, or of who named the role where IAM holds none."""

from __future__ import annotations

from typing import Protocol

from clary.domain.errors import Unsupported
from clary.services.base import Context


class Keyring(Protocol):
    """Who is behind a key: (user, role of a session), both "" for nobody known."""

    def owner(self, access_key_id: str) -> tuple[str, str]: ...


def passed_on(context: Context, keyring: Keyring) -> dict[str, str]:
    """The members under which a stored thing keeps its maker: {"user", "user_role"}."""
    user, role = keyring.owner(context.caller.access_key_id)
    return {"user": user, "user_role": role}


_ACTIONS = {"lambda": "lambda:InvokeFunction", "sqs": "sqs:SendMessage", "sns": "sns:Publish"}


def authorize_target(context: Context, arn: str) -> None:
    """Nobody makes clary do for him what he may not do himself. Raises: AccessDenied."""
    context.authorize(_ACTIONS[arn.split(":")[2]], arn)


def authorize_letters(context: Context, arn: str) -> None:
    """The same for a dead-letter queue; "" is none. Raises: AccessDenied, Unsupported for what is no queue."""
    if arn:
        if arn.split(":")[2:3] != ["sqs"]:
            raise Unsupported(f"the dead-letter target {arn}", "name the ARN of an SQS queue")
        context.authorize("sqs:SendMessage", arn)
