"""An S3 client for the external store: bounded in time, its errors in our words.

The one module of the tree that runs botocore's code, and only where an external store is configured: its retries,
pools and TLS are proven against every S3 there is. It reads nobody's configuration: no profile, no variables, no proxy.
However the store fails, a call ends: within a quarter of a minute when nobody is there, within three when it hangs.
What comes of it then is StoreFailed with the store's address.
"""

from __future__ import annotations

import os
import ssl
import threading
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from clary.domain.errors import AccessDenied, ClaryError, NotFound, PreconditionFailed, StoreFailed
from clary.store.external.keys import KEYS_REFUSED, KeyFile
from clary.wire.sigv4_signing import SecretKeys

CONNECT_LIMIT_S = 5.0
READ_LIMIT_S = 60.0  # between two pieces of an answer
TRIES = 3
CONNECTIONS = 64  # as many as asynchronous invocations are worked on at once
# A HEAD's refusal has no body to say why.
_BARE = ("403", "400")


class ExternalClient:
    """Calls by operation. Thread-safe; a replaced key file takes effect with the next call."""

    def __init__(self, url: str, region: str, key_file: KeyFile, *, tries: int = TRIES, read_s: float = READ_LIMIT_S):
        self.url = url
        self.key_file = key_file
        self._region = region
        self._config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=CONNECT_LIMIT_S,
            read_timeout=read_s,
            retries={"mode": "standard", "total_max_attempts": tries},
            max_pool_connections=CONNECTIONS,
            proxies={},
            # Not every S3 knows the newer checksums; bodies are bound by their SHA-256 or MD5 instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._lock = threading.Lock()
        self._keys: SecretKeys | None = None
        self._client: Any = None

    def call(self, operation: str, bucket: str = "", key: str = "", **members: Any) -> dict[str, Any]:
        """One call, as "head_object". Raises: NotFound, AccessDenied, PreconditionFailed, StoreFailed."""
        named = {name: value for name, value in (("Bucket", bucket), ("Key", key)) if value}
        try:
            answer: dict[str, Any] = getattr(self._current(), operation)(**named, **members)
        except (ClientError, BotoCoreError, OSError) as error:
            if operation == "head_object" and isinstance(error, ClientError) and _code(error) in _BARE:
                self.call("get_object", bucket, key, Range="bytes=0-0")["Body"].close()
            raise self.told(error, operation, bucket, key) from error
        return answer

    def told(self, error: Exception, operation: str, bucket: str, key: str) -> ClaryError:
        """What went wrong, as one of ours."""
        place = f"s3://{bucket}/{key}".rstrip("/") if bucket else "its buckets"
        what = f"{operation} of {place} at the external object store {self.url}"
        if not isinstance(error, ClientError):
            return StoreFailed(what, detail=str(error))
        code, message = _code(error), error.response.get("Error", {}).get("Message", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket" or (status == 404 and not key):
            return NotFound("Bucket", bucket)
        if code == "NoSuchKey" or (status == 404 and operation in ("head_object", "get_object")):
            return NotFound("Key", key)
        if status == 412:
            return PreconditionFailed("If-Match")
        if code in KEYS_REFUSED:
            return StoreFailed(what, detail=f"it refuses the keys of {self.key_file.path} ({code}: {message})")
        if status == 403:
            reason = f"the external object store {self.url} says {code}: {message}"
            return AccessDenied(action=operation, resource=place, reason=reason)
        return StoreFailed(what, detail=f"{code} ({status}): {message}")

    def close(self) -> None:
        """Twice is fine."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = self._keys = None

    def _current(self) -> Any:
        keys = self.key_file.keys()
        with self._lock:
            if self._client is None or keys is not self._keys:
                self._client, self._keys = self._made(keys), keys
            return self._client

    def _made(self, keys: SecretKeys) -> Any:
        nobodys = (None, None, os.devnull, None)
        variables = {"config_file": nobodys, "credentials_file": nobodys, "profile": (None, None, None, None)}
        session = botocore.session.Session(variables)
        return session.create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self.url,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=keys.session_token or None,
            # Whom the operator's SSL_CERT_FILE or the system trusts, as our own requests do.
            verify=ssl.get_default_verify_paths().cafile or True,
            config=self._config,
        )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
