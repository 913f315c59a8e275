"""The user's own package settings, handed on to uv.

uv does not read pip's settings. Where a user has told pip of a folder of wheels or of a mirror, the same is said to uv
in its words; what is already said in uv's words wins. Extra indexes are not carried over: with more than one index the
choice of where a name comes from must be the user's, in uv's own settings.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

# Names that a package installer may see of the caller's environment, beside UV_*.
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy")
PASSED_ON_TOO = ("no_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "XDG_CACHE_HOME")
PIP_SECTIONS = ("global", "install")


def pip_config_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where pip looks, least specific first (pip documentation, "Configuration")."""
    home = Path(environ.get("HOME", "/root"))
    files = [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(environ.get("XDG_CONFIG_HOME", str(home / ".config"))) / "pip" / "pip.conf",
    ]
    if named := environ.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    return tuple(files)


def uv_environment(environ: Mapping[str, str], config_files: Sequence[Path]) -> dict[str, str]:
    """The environment that uv runs with."""
    given = {name: environ[name] for name in (*PASSED_ON, *PASSED_ON_TOO) if name in environ}
    given.update({name: value for name, value in environ.items() if name.startswith("UV_")})
    pip = _pip_settings(environ, config_files)
    for ours, theirs in (
        ("UV_FIND_LINKS", "find-links"),
        ("UV_DEFAULT_INDEX", "index-url"),
        ("SSL_CERT_FILE", "cert"),
    ):
        if ours not in given and pip.get(theirs):
            # pip separates links by spaces and lines, uv by commas.
            given[ours] = ",".join(pip[theirs].split()) if theirs == "find-links" else pip[theirs]
    # Nothing of a project that happens to lie around, no other Python than the one named, no half-answers.
    given.update({"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"})
    given.pop("UV_PROJECT_ENVIRONMENT", None)
    return given


def local_wheels(uv_environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the wheel files in the find-links folders, sorted; remote links are not looked at."""
    names: set[str] = set()
    for link in uv_environ.get("UV_FIND_LINKS", "").split(","):
        if link.startswith("file:"):
            link = unquote(urlparse(link).path)
        if link and "://" not in link and Path(link).is_dir():
            names.update(path.name for path in Path(link).glob("*.whl"))
    return tuple(sorted(names))


def _pip_settings(environ: Mapping[str, str], files: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        parser.read(file)
        for section in PIP_SECTIONS:
            if parser.has_section(section):
                found.update(parser.items(section))
    for name, value in environ.items():
        if name.startswith("PIP_"):
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found
