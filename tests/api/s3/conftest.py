"""A gateway with the S3 service on a loopback port, and clients that talk to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from served import Fronted, Served


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Signatures required, over our own store."""
    with Served(tmp_path_factory.mktemp("objects"), signatures=True) as one:
        yield one


@pytest.fixture(scope="session")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    """The same over an external store."""
    with Fronted(tmp_path_factory.mktemp("elsewhere")) as one:
        yield one


@pytest.fixture(scope="session", params=["own", "fronted"])
def served(request: pytest.FixtureRequest) -> Served:
    """Both, one after the other: clients must not notice."""
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Signatures switched off."""
    with Served(tmp_path_factory.mktemp("unsigned"), signatures=False) as one:
        yield one


@pytest.fixture
def s3(served: Served) -> Any:
    return served.client()


@pytest.fixture
def bucket(served: Served, s3: Any) -> str:
    """A new, empty bucket."""
    name = served.new_name()
    s3.create_bucket(Bucket=name)
    return name
