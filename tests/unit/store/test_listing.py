"""Listings against the plain definition of what S3 lists."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clary.store.listing import successor
from clary.store.object_info import ObjectMetadata
from clary.store.objects import ObjectStore

KEYS = ["a", "a/b", "a/b/c", "a/b/d", "a0", "b/", "b/x", "c//d", "c/d", "é/1", "é", "z", "日/本", "\0", "A"]


def put_all(store: ObjectStore, keys: list[str]) -> None:
    for key in keys:
        with store.begin_put("b-1", key, metadata=ObjectMetadata()) as session:
            session.commit()


def expected(keys: list[str], prefix: str, delimiter: str, start_after: str) -> list[str]:
    """Keys, and prefixes as `prefix>`, in byte order; a prefix counts only when greater than the marker."""
    found: dict[str, str] = {}
    for key in keys:
        if not key.startswith(prefix) or key.encode() <= start_after.encode():
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        group = key if at < 0 else key[: at + len(delimiter)]
        if at >= 0 and group.encode() <= start_after.encode():
            continue
        found[group] = group if at < 0 else group + ">"
    return [found[group] for group in sorted(found, key=str.encode)]


def listed(store: ObjectStore, prefix: str, delimiter: str, start_after: str, max_keys: int) -> list[str]:
    seen: list[str] = []
    marker: str | None = start_after
    while marker is not None:
        page = store.list_objects("b-1", prefix=prefix, delimiter=delimiter, start_after=marker, max_keys=max_keys)
        here = [one.key for one in page.objects] + [one + ">" for one in page.common_prefixes]
        assert len(here) <= max_keys
        seen += sorted(here, key=lambda name: name.removesuffix(">").encode())
        marker = page.next
    return seen


@pytest.mark.parametrize("max_keys", [1, 2, 3, 1000])
@pytest.mark.parametrize("delimiter", ["", "/", "b", "//", "日"])
def test_every_page_size_gives_the_same_listing(store: ObjectStore, delimiter: str, max_keys: int) -> None:
    put_all(store, KEYS)
    for prefix in ("", "a", "a/", "a/b/", "c/", "é", "nothing"):
        for start_after in ("", "a", "a/", "a/b", "a/b/c", "b/", "zz"):
            assert listed(store, prefix, delimiter, start_after, max_keys) == expected(
                KEYS, prefix, delimiter, start_after
            ), (prefix, delimiter, start_after)


@given(
    keys=st.lists(st.text("ab/é", min_size=1, max_size=5), unique=True, max_size=12),
    prefix=st.text("ab/", max_size=2),
    delimiter=st.sampled_from(["", "/", "a/"]),
    start_after=st.text("ab/é", max_size=3),
    max_keys=st.integers(1, 5),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_listing_agrees_with_its_definition(
    store: ObjectStore, keys: list[str], prefix: str, delimiter: str, start_after: str, max_keys: int
) -> None:
    store.delete_many("b-1", [one.key for one in store.list_objects("b-1").objects])
    put_all(store, keys)
    assert listed(store, prefix, delimiter, start_after, max_keys) == expected(keys, prefix, delimiter, start_after)


def test_a_big_folder_is_stepped_over_and_a_batch_boundary_is_no_seam(store: ObjectStore) -> None:
    # 600 keys: more than two batches of rows under one prefix, and flat.
    keys = [f"big/{number:04d}" for number in range(600)] + ["tail"]
    put_all(store, keys)
    page = store.list_objects("b-1", delimiter="/")
    assert (page.common_prefixes, [one.key for one in page.objects], page.next) == (("big/",), ["tail"], None)
    assert listed(store, "big/", "/", "", 1000) == keys[:600]
    assert listed(store, "", "", "", 97) == keys


def test_zero_keys_is_an_empty_and_finished_page(store: ObjectStore) -> None:
    put_all(store, ["a"])
    page = store.list_objects("b-1", max_keys=0)
    assert (page.objects, page.common_prefixes, page.next) == ((), (), None)


@pytest.mark.parametrize(("head", "want"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff", None), (b"", None)])
def test_successor_is_the_first_key_beyond_a_prefix(head: bytes, want: bytes | None) -> None:
    assert successor(head) == want
