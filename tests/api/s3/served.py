"""The gateway and the S3 service on a free loopback port, in a thread of this process."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import uvicorn
from botocore.config import Config

from clary.domain.policy import Policy
from clary.gateway.app import Gateway
from clary.gateway.authentication import Authentication
from clary.gateway.external_store import ExternalStore
from clary.services.base import Caller, Context, Members
from clary.services.s3.service import S3
from clary.store.blobs import Durability
from clary.store.external.keys import KeyFile
from clary.store.objects import ObjectStore
from clary.wire.catalog import Call
from clary.wire.sigv4 import Credential

ACCOUNT = "111122223333"
KEY = "AKIDEXAMPLEADMIN0000"
NOBODY = "AKIDEXAMPLENOBODY000"
ELSEWHERE = "AKIDEXAMPLEELSEWHERE"  # an administrator's too
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


async def nothing_exists(_arn: str) -> bool:
    """There is no service here that a bucket could tell anything."""
    return False


class TwoKeys:
    """An administrator's key, and one that may do nothing."""

    def find(self, access_key_id: str) -> Credential | None:
        return Credential(access_key_id, SECRET) if access_key_id in (KEY, NOBODY, ELSEWHERE) else None

    def caller(self, access_key_id: str) -> Caller:
        arn = f"arn:aws:iam::{ACCOUNT}:user/{access_key_id}"
        return Caller(arn, access_key_id, administrator=access_key_id != NOBODY)

    def policies(self, access_key_id: str) -> tuple[Policy, ...]:
        return ()


def now() -> datetime:
    return datetime.now(UTC)


async def no_hold(call: Call, context: Context, params: Members) -> None:
    return None


class Served:
    """A context manager: serving inside, gone afterwards."""

    def __init__(self, folder: Path, *, signatures: bool) -> None:
        self.folder = folder
        self.objects = ObjectStore(folder, now=now, durability=Durability.RELAXED)
        self._s3 = S3(self.objects, ACCOUNT, now, nothing_exists)
        self._numbers = itertools.count(1)
        authentication = Authentication(TwoKeys(), signatures, ACCOUNT, now)
        self._gateway = Gateway({"s3": self._s3}, authentication, ACCOUNT, no_hold)
        self._serve(self._gateway)

    def serve_again(self, port: int) -> None:
        """After `_stop`, where clients know it."""
        self._serve(self._gateway, port)
        self._thread.start()

    def _serve(self, gateway: Gateway, port: int = 0) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(gateway, http="httptools", loop="uvloop", log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._s3.close()
        self.objects.close()

    def _stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def new_name(self) -> str:
        """A bucket's name that was not used yet."""
        return f"bucket-{next(self._numbers)}"

    def client(self, *, region: str = "us-east-1", key: str = KEY, **config: Any) -> Any:
        """boto3's, as users make it, without retries."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=key,
            aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def environment(self) -> dict[str, str]:
        """For a program such as the aws command."""
        return {
            **os.environ,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Fronted(Served):
    """The same for clients, but that another one, of another account and with a key of its own, is the store."""

    def __init__(self, folder: Path, region: str = "us-east-1", url: str = "") -> None:
        """`url`: of something else that is to be taken for the store."""
        self.external = Served(folder, signatures=True)
        self.folder = folder
        self.objects = self.external.objects
        self._numbers = itertools.count(1)
        keys = folder / "keys"
        keys.touch(0o600)
        keys.write_text(f"[default]\naws_access_key_id = {ELSEWHERE}\naws_secret_access_key = {SECRET}\n")
        self.store = ExternalStore(url or self.external.url, region, KeyFile(folder, "keys"), ACCOUNT, now)
        authentication = Authentication(TwoKeys(), True, ACCOUNT, now)
        self._serve(Gateway({}, authentication, ACCOUNT, no_hold, external=self.store))

    def __enter__(self) -> Self:
        self.external.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self.external.__exit__(kind, error, trace)
