"""The external store's keys: a file in the form of AWS's shared credentials, that nobody but clary's user can read.

    [default]
    aws_access_key_id = ...
    aws_secret_access_key = ...
    aws_session_token = ...            (where there is one)

Settings name the file, and no key travels with them: what `clary up` writes for its processes can be read by others.
The file is looked at with every use and read again when it changed, so keys are rotated by replacing it.
"""

from __future__ import annotations

import configparser
import os
import stat
import threading
from pathlib import Path

from clary.domain.errors import Invalid, StoreFailed
from clary.wire.sigv4_signing import SecretKeys

SETTING = "s3_credentials_file"
# What an S3 says of the keys themselves, not of what they may do.
KEYS_REFUSED = frozenset({
    "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken",
    "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
})  # fmt: skip


class KeyFile:
    """One file; used from any thread."""

    def __init__(self, data: Path, name: str) -> None:
        """`name` is below the data folder unless it is absolute."""
        self.path = data / name
        self._lock = threading.Lock()
        self._version: tuple[int, ...] = ()
        self._keys: SecretKeys | None = None

    def keys(self) -> SecretKeys:
        """The keys that the file holds now. Raises: StoreFailed saying what is wrong with it."""
        try:
            return self.check()
        except Invalid as error:
            raise StoreFailed("signing for the external object store", detail=str(error)) from error

    def check(self) -> SecretKeys:
        """The same. Raises: Invalid, for whoever can still put it right."""
        try:
            facts = self.path.stat()
        except OSError as error:
            raise Invalid(SETTING, f"{self.path} cannot be read: {error.strerror}") from error
        if facts.st_uid not in (0, os.geteuid()):
            raise Invalid(SETTING, f"{self.path} belongs to uid {facts.st_uid}, not to clary's user; chown it")
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            raise Invalid(SETTING, f"others may read {self.path} (mode {mode:04o}); chmod 600 it")
        version = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        with self._lock:
            if self._keys is None or version != self._version:
                self._keys, self._version = self._read(), version
            return self._keys

    def _read(self) -> SecretKeys:
        document = configparser.RawConfigParser()
        try:
            document.read_string(self.path.read_text())
            profile = document["default"]
            keys = SecretKeys(
                profile["aws_access_key_id"].strip(),
                profile["aws_secret_access_key"].strip(),
                profile.get("aws_session_token", "").strip(),
            )
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(SETTING, f"{self.path} cannot be read: {error}") from error
        except (configparser.Error, KeyError):
            keys = None  # the parser's own words would show lines of the file
        if keys is None or not keys.access_key_id or not keys.secret_access_key:
            text = f"{self.path} must have [default] with aws_access_key_id and aws_secret_access_key"
            raise Invalid(SETTING, text)
        return keys
