"""Who may share a warm interpreter."""

from __future__ import annotations

import pytest

from clary.domain.isolation import zygote_environ, zygote_key

ROLE, OTHER = "arn:aws:iam::123456789012:role/a", "arn:aws:iam::123456789012:role/b"


def test_a_trusted_environment_is_shared_by_all_roles() -> None:
    assert zygote_key("e1", True, ROLE, False, {}) == zygote_key("e1", True, OTHER, False, {"A": "b"}) == "e1"


def test_one_with_packages_of_the_users_choice_is_never_shared_between_roles_or_networks() -> None:
    keys = {zygote_key("e1", False, role, network, {}) for role in (ROLE, OTHER) for network in (False, True)}
    assert len(keys) == 4
    assert "e1" not in keys
    assert zygote_key("e1", False, ROLE, False, {"X": "1"}) == zygote_key("e1", False, ROLE, False, {})


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_is_read_at_a_process_start_needs_a_plain_start(name: str) -> None:
    assert zygote_key("e1", True, ROLE, False, {name: "1"}) == ""


def test_what_a_framework_reads_at_import_gets_a_zygote_started_with_it() -> None:
    environment = {"HF_HOME": "/tmp/a", "SAGEMAKER_PROGRAM": "inference.py"}
    assert zygote_environ(environment) == {"HF_HOME": "/tmp/a"}
    assert zygote_key("e1", True, ROLE, False, environment) not in ("", "e1")
    assert zygote_key("e1", True, ROLE, False, environment) != zygote_key("e1", True, ROLE, False, {"HF_HOME": "/b"})


def test_what_only_a_model_needs_leaves_the_zygote_to_all() -> None:
    environment = {"HF_TASK": "fill-mask", "HF_MODEL_ID": "org/model", "HF_API_TOKEN": "x"}
    assert zygote_environ(environment) == {}  # and no token lies about in a process that many share
    assert zygote_key("e1", True, ROLE, False, environment) == "e1"


def test_no_environment_key_means_no_zygote() -> None:
    assert zygote_key("", True, ROLE, False, {}) == ""
