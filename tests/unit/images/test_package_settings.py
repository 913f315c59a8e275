"""What uv is told of the user's pip settings."""

from __future__ import annotations

from pathlib import Path

from clary.images.package_settings import local_wheels, pip_config_files, uv_environment


def test_pips_settings_are_handed_on_in_uvs_words(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nfind-links =\n  /wheels\n  https://x.example/w\n[install]\nindex-url = https://m/simple\n"
    )
    found = uv_environment({"PATH": "/bin", "PIP_CERT": "/ca.pem", "SECRET": "s"}, [config])
    assert found["UV_FIND_LINKS"] == "/wheels,https://x.example/w"
    assert (found["UV_DEFAULT_INDEX"], found["SSL_CERT_FILE"], found["PATH"]) == ("https://m/simple", "/ca.pem", "/bin")
    assert "SECRET" not in found


def test_the_environment_outranks_files_and_uvs_words_outrank_pips(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nfind-links = /file\nindex-url = https://file\n")
    environ = {"PIP_FIND_LINKS": "/variable", "PIP_INDEX_URL": "https://variable", "UV_DEFAULT_INDEX": "https://uv"}
    found = uv_environment(environ, [config])
    assert (found["UV_FIND_LINKS"], found["UV_DEFAULT_INDEX"]) == ("/variable", "https://uv")


def test_extra_indexes_are_not_carried_over() -> None:
    assert "UV_INDEX" not in uv_environment({"PIP_EXTRA_INDEX_URL": "https://other"}, [])


def test_only_local_folders_are_searched_for_wheels(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    (tmp_path / "notes.txt").touch()
    links = f"https://x.example/w,{tmp_path},file://{tmp_path},/does/not/exist"
    assert local_wheels({"UV_FIND_LINKS": links}) == ("torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",)
    assert local_wheels({}) == ()


def test_pip_config_files_are_where_pip_looks() -> None:
    files = pip_config_files({"HOME": "/home/ann", "PIP_CONFIG_FILE": "/named.conf"})
    assert [str(one) for one in files] == [
        "/etc/pip.conf",
        "/home/ann/.pip/pip.conf",
        "/home/ann/.config/pip/pip.conf",
        "/named.conf",
    ]
