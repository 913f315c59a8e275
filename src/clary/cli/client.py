"""AWS clients of the running clary: the command line is a client of the public API like any other."""

from __future__ import annotations

from typing import Any, NoReturn

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from clary.cli.environment import admin_key
from clary.cli.local import Local
from clary.cli.output import fail


class Clients:
    """botocore clients of one region, made when first used."""

    def __init__(self, local: Local, region: str | None = None) -> None:
        settings = local.settings()
        key = admin_key(local)
        self.account = settings.account
        self.region = region or settings.region
        self._session = botocore.session.get_session()
        self._options: dict[str, Any] = {
            "region_name": self.region,
            "endpoint_url": local.url(),
            "aws_access_key_id": key.access_key_id,
            "aws_secret_access_key": key.secret,
            "config": Config(retries={"total_max_attempts": 1}, read_timeout=70),
        }
        self._made: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._made:
            self._made[service] = self._session.create_client(service, **self._options)
        return self._made[service]


def explain(error: ClientError | BotoCoreError) -> NoReturn:
    """Ends the command with the service's own words."""
    if isinstance(error, ClientError):
        details = error.response["Error"]
        fail(f"{details.get('Code')}: {details.get('Message')}")
    fail(str(error))
