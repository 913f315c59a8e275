"""Which Pythons of the host are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clary.images.interpreters import find_interpreters


@pytest.mark.parametrize("kind", ["closed", "too long"])
def test_a_folder_on_path_that_cannot_be_looked_into_is_passed_over(tmp_path: Path, kind: str) -> None:
    closed = tmp_path / ("closed" if kind == "closed" else "n" * 300)
    if kind == "closed":
        if os.geteuid() == 0:
            pytest.skip("root may enter every folder")
        closed.mkdir(mode=0)
    expected = find_interpreters({"PATH": ""})
    assert expected
    assert find_interpreters({"PATH": str(closed)}) == expected
