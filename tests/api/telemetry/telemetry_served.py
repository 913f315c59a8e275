"""A gateway with the services that tell what happened, on a free loopback port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import boto3
import uvicorn
from botocore.config import Config

from clary.domain.policy import Policy
from clary.gateway.app import Gateway
from clary.gateway.authentication import Authentication
from clary.services.base import Caller, Context, Members, Service
from clary.wire.catalog import Call
from clary.wire.sigv4 import Credential

ACCOUNT = "111122223333"


class Nobody:
    """No keys: signatures are switched off."""

    def find(self, access_key_id: str) -> Credential | None:
        return None

    def caller(self, access_key_id: str) -> Caller:
        raise KeyError(access_key_id)

    def policies(self, access_key_id: str) -> tuple[Policy, ...]:
        return ()


def now() -> datetime:
    return datetime.now(UTC)


async def no_hold(call: Call, context: Context, params: Members) -> None:
    return None


class TelemetryServed:
    """A context manager: serving inside, gone afterwards."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        gateway = Gateway(services, Authentication(Nobody(), False, ACCOUNT, now), ACCOUNT, no_hold)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(gateway, http="httptools", loop="uvloop", log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def client(self, service: str, region: str = "us-east-1") -> Any:
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="AKIDANY",
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 1}),
        )
