"""The floors of the house: imports fall downwards, nobody hides a circle in a function, some rooms know few others."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
# From the ground up. A room may import rooms of lower floors, and nothing of its own floor but itself.
FLOORS = [
    {"domain", "paths", "lifeline", "failpoints", "data", "client"},
    {"wire", "tables", "settings", "line_socket", "worker_connection"},
    {"store", "images", "supervisor"},
    {"runtimes", "services", "proxy", "transform"},
    {"controllers", "gateway"},
    {"control", "cli"},
]
# What a room must not know, though it lies on a lower floor (style of the house, "what is absent").
ABSENT = {
    "supervisor": {"domain", "wire", "store", "settings"},
    "proxy": {"store", "services", "images", "runtimes"},
    "controllers": {"services", "wire", "gateway"},
    "services": {"runtimes", "controllers", "images"},
    "transform": {"wire", "settings", "images", "supervisor"},
}
# The proxy knows these of ours and no other module of their rooms.
PROXY_KNOWS = {
    "clary.domain.routing",
    "clary.domain.containers",
    "clary.domain.scaling",
    "clary.domain.usage",
    "clary.domain.names",
    "clary.domain.capture",
    "clary.domain.multimodel",
    "clary.domain.policy",
    "clary.wire.sigv4",
    "clary.wire.sigv4_scope",
    "clary.wire.eventstream",
    "clary.wire.http",
    "clary.wire.errors",
    "clary.tables",
    "clary.paths",
    "clary.lifeline",
    "clary.line_socket",
    "clary.settings",
}
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for package in ("clary", "clary_worker") for path in (SRC / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported inside a function) of everything that a file imports, type-checking aside."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            deeper = inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            if isinstance(child, ast.Import):
                found.extend((alias.name, deeper) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    package = name_of(path).split(".")
                    keep = len(package) - child.level + (1 if path.name == "__init__.py" else 0)
                    base = ".".join([*package[:keep], *([child.module] if child.module else [])])
                found.append((base, deeper))
                found.extend((f"{base}.{alias.name}", deeper) for alias in child.names)
            visit(child, deeper)

    visit(ast.parse(path.read_text()), False)
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "clary" and len(parts) > 1 else None


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("clary.")], ids=name_of)
def test_imports_fall_downwards(path: Path) -> None:
    own = room_of(name_of(path))
    assert own is not None
    assert own in FLOOR_OF, f"{own} has no floor yet: give it one in FLOORS"
    for module, _ in imports_of(path):
        room = room_of(module)
        if room is None or room == own or room not in FLOOR_OF:
            continue
        assert FLOOR_OF[room] < FLOOR_OF[own], f"{name_of(path)} imports {module}, which is not on a lower floor"
        assert room not in ABSENT.get(own, set()), f"{own} must not know {room} ({module})"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_worker_and_platform_never_import_each_other(path: Path) -> None:
    own = name_of(path).partition(".")[0]
    other = {"clary": "clary_worker", "clary_worker": "clary"}[own]
    assert not [module for module, _ in imports_of(path) if module.partition(".")[0] == other]


def test_no_circle_even_inside_functions() -> None:
    names = {name_of(path): path for path in MODULES}
    arrows = {
        name: {module for module, _ in imports_of(path) if module in names and module != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> None:
        assert name not in way, "a circle: " + " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for other in arrows[name]:
            walk(other, [*way, name])
        done.add(name)

    for name in names:
        walk(name, [])


def test_proxy_knows_little_of_ours() -> None:
    modules = {name_of(path) for path in MODULES}
    for path in (SRC / "clary" / "proxy").glob("*.py"):
        for module, _ in imports_of(path):
            if module in modules and room_of(module) not in (None, "proxy"):
                assert module in PROXY_KNOWS, f"{name_of(path)} imports {module}"


def test_supervisor_needs_only_the_standard_library() -> None:
    import sys

    for path in (SRC / "clary" / "supervisor").glob("*.py"):
        for module, _ in imports_of(path):
            top = module.partition(".")[0]
            assert top == "clary" or top in sys.stdlib_module_names, f"{name_of(path)} imports {module}"


def test_domain_is_pure() -> None:
    forbidden = {"os", "socket", "subprocess", "asyncio", "time", "random", "threading", "pathlib", "sqlite3"}
    for path in (SRC / "clary" / "domain").glob("*.py"):
        tops = {module.partition(".")[0] for module, _ in imports_of(path)}
        assert not tops & forbidden, f"{name_of(path)} imports {tops & forbidden}"
        assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.AsyncFunctionDef)]


def test_only_settings_and_borders_read_the_environment() -> None:
    allowed = {
        "clary.settings",
        "clary.failpoints",
        "clary.cli.daemon",  # hands a part of it on to the tree
        "clary.cli.environment",  # extends the caller's PYTHONPATH
        "clary.supervisor.main",  # PATH for its own services
    }
    for path in (SRC / "clary").rglob("*.py"):
        if "os.environ" in path.read_text() and name_of(path) not in allowed:
            pytest.fail(f"{name_of(path)} reads the environment; settings.py is the reader")


def test_only_the_catalog_reads_botocore_in_the_tree() -> None:
    for path in (SRC / "clary").rglob("*.py"):
        if room_of(name_of(path)) in ("cli",) or ".store.external." in name_of(path):
            continue  # the command line is a client, and so are we of an external object store
        tops = {module.partition(".")[0] for module, _ in imports_of(path)}
        assert not tops & {"botocore", "boto3"}, f"{name_of(path)} imports botocore"


def test_init_files_are_empty() -> None:
    for path in SRC.rglob("__init__.py"):
        assert path.read_text().strip() == "", f"{path} re-exports: that is how circles start"


def test_files_are_nouns() -> None:
    banned = {"utils", "helpers", "common", "manager", "misc", "util", "helper"}
    assert not [path for path in MODULES if path.stem in banned]


def test_except_exception_stands_at_named_borders_only() -> None:
    borders = {
        "clary.gateway.app": 1,
        "clary.controllers.loop": 1,
        "clary.store.index_writer": 1,  # hands it to the caller whose write it was
        "clary.store.invocations": 1,  # the same
    }
    for path in (SRC / "clary").rglob("*.py"):
        handlers = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ExceptHandler)
            and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
        ]
        assert len(handlers) <= borders.get(name_of(path), 0), f"{name_of(path)} catches everything"
