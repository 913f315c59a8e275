"""What is installed below folders of packages: `compile` writes its bytecode, `freeze` lists it.

Run as a file by the environment's own Python with `-I -S`: nothing that a package brought (a .pth file, a
sitecustomize) runs as whoever builds the environment. Imports nothing but the standard library, for every Python since
3.8. A file that does not compile (a template, Python 2) harms nobody who does not import it; it is passed over, as pip
does. Folders of tests are half of scientific Python's files and never imported: they stay sources.
"""

import compileall
import importlib.metadata
import json
import re
import sys

TESTS = re.compile(r"[/\\]tests?[/\\]")


def freeze(folder: str) -> "list[str]":
    """Lines as of `pip freeze`: `name==version`, or `name @ url` of what came from one."""
    lines = []
    for one in importlib.metadata.distributions(path=[folder]):
        url = json.loads(one.read_text("direct_url.json") or "{}").get("url")
        lines.append(f"{one.metadata['Name']} @ {url}" if url else f"{one.metadata['Name']}=={one.version}")
    return sorted(lines, key=str.lower)


def main(verb: str, *folders: str) -> None:
    for folder in folders:
        if verb == "compile":
            compileall.compile_dir(folder, quiet=2, rx=TESTS, workers=0)
        else:
            print("\n".join(freeze(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
