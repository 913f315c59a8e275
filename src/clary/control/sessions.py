"""Sessions of roles for what acts on a user's behalf while the user is away: functions and schedules."""

from __future__ import annotations

from datetime import datetime

from clary.controllers.function_runs import Keys
from clary.store.identities import AccessKey, Identities


class RoleSessions:
    """Opened in the identities that requests are checked against."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    def open(self, role_arn: str, user: str, user_role: str, session_name: str, duration_s: int) -> Keys:
        """A session of the role; where IAM holds no such role, with the rights of who named it."""
        account, name = role_arn.split(":")[4], role_arn.rpartition("/")[2]
        arn = f"arn:aws:sts::{account}:assumed-role/{name}/{session_name}"
        by = AccessKey("", "", user=user, role=user_role)
        session = self._identities.open_session(by, name, arn, duration_s)
        assert session.session_token is not None
        assert session.expires_at is not None
        return Keys(
            session.access_key_id, session.secret, session.session_token, datetime.fromisoformat(session.expires_at)
        )
