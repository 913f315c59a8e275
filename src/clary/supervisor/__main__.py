"""`python -I -m clary.supervisor --data DIR`: reads run/settings.json (written by `clary up`) and runs.

Exit codes: 0 after an orderly stop, 73 when another supervisor holds the data folder, 74 when the port is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from clary.paths import Layout
from clary.supervisor import claims, processes
from clary.supervisor.main import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="clary.supervisor")
    parser.add_argument("--data", type=Path, required=True)
    layout = Layout(parser.parse_args().data)
    layout.make()
    held = claims.lock(layout.lock)
    if held is None:
        sys.stderr.write(f"another clary runs on {layout.data} (see {layout.lock})\n")
        return 73
    settings = json.loads(layout.settings.read_text())
    try:
        front = claims.listen(settings["host"], settings["port"])
    except OSError as error:
        sys.stderr.write(f"cannot listen on {settings['host']}:{settings['port']}: {error.strerror}\n")
        return 74
    processes.become_subreaper()
    return Supervisor(layout, settings).run({"front": front})


if __name__ == "__main__":
    sys.exit(main())
