"""The file of an external store's keys: nobody else may read it, and its words are never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clary.domain.errors import Invalid, StoreFailed
from clary.settings import Settings, check
from clary.store.external.keys import KeyFile

GOOD = "[default]\naws_access_key_id = AKID\naws_secret_access_key = s3cr3t\n"


def written(folder: Path, text: str, mode: int = 0o600) -> KeyFile:
    path = folder / "keys"
    path.unlink(missing_ok=True)
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return KeyFile(folder, "keys")


def test_keys_are_read_and_read_again_when_they_change(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    assert (file.keys().access_key_id, file.keys().session_token) == ("AKID", "")
    assert file.keys() is file.keys()
    written(tmp_path, GOOD.replace("AKID", "OTHER") + "aws_session_token = t\n")
    assert (file.keys().access_key_id, file.keys().session_token) == ("OTHER", "t")
    assert KeyFile(Path("/elsewhere"), str(tmp_path / "keys")).keys().access_key_id == "OTHER"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_for_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Invalid, match="chmod 600"):
        written(tmp_path, GOOD, mode).check()
    with pytest.raises(StoreFailed, match="chmod 600"):
        written(tmp_path, GOOD, mode).keys()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    os.chown(file.path, 4711, 4711)
    with pytest.raises(Invalid, match="uid 4711"):
        file.check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3cr3t",
        "[default]\ns3cr3t\n",
        "[other]\naws_access_key_id = a\naws_secret_access_key = s3cr3t\n",
        "[default]\naws_secret_access_key = s3cr3t\n",
        "[default]\naws_access_key_id =\naws_secret_access_key = s3cr3t\n",
    ],
)
def test_a_file_without_keys_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid, match="aws_access_key_id") as caught:
        written(tmp_path, text).check()
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("store:9000", "http://host:port"),
        ("ftp://store", "http://host:port"),
        ("http://store/path", "http://host:port"),
        ("http://key:secret@store", "http://host:port"),
        ("http://store:port", "[Pp]ort"),
        ("http://127.0.0.1:8787", "own address"),
        ("http://localhost:8787/", "own address"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        check(Settings(s3_endpoint_url=url))


@pytest.mark.parametrize("url", ["", "http://store:9000", "https://s3.example.com/", "http://127.0.0.1:9000"])
def test_an_address_is_taken(url: str) -> None:
    check(Settings(s3_endpoint_url=url))
