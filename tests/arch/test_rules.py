"""Rules of docs/architecture.md that no import contract can express."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/deadpeer"

CORE = ("wire", "crypto", "ike", "crash", "cluster", "plane", "values.py", "store.py", "assembly.py")
"""The protocol core: time, entropy and packets come to it as arguments."""

OUTSIDE = {
    "asyncio", "concurrent", "fcntl", "http", "io", "logging", "multiprocessing", "os", "pathlib", "pyroute2",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib",
}  # fmt: skip
"""Ways to a clock, to chance, to files, to the network, to other threads."""

AT_THE_EDGE = {
    "crypto/entropy.py": {"os"},
    "plane/steering.py": {"os", "pyroute2", "socket"},
    "plane/tun.py": {"fcntl", "os", "pyroute2", "socket", "threading"},
    "plane/unix.py": {"os", "pathlib", "socket"},
}
"""Where the core's rooms touch the world: the one source of real entropy, and the hosts of a data plane."""

LARGEST = 500
LARGE: set[str] = set()
"""Larger files, to be split by reason to change."""


def test_the_protocol_core_does_no_io() -> None:
    found = {}
    for file in _files(*CORE):
        name = file.relative_to(PACKAGE).as_posix()
        beyond = (_imported(file) & OUTSIDE) - AT_THE_EDGE.get(name, set())
        if beyond:
            found[name] = sorted(beyond)
    assert found == {}


def test_the_protocol_core_asks_no_clock_and_opens_no_file() -> None:
    calls = re.compile(r"\b(?:datetime\.(?:now|utcnow|today)|date\.today|open|print|input)$")
    found = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node.func)}()"
        for file in _files(*CORE)
        if file.relative_to(PACKAGE).as_posix() not in AT_THE_EDGE
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and (isinstance(node.func, ast.Name) or ast.unparse(node.func).startswith("date"))
        and calls.search(ast.unparse(node.func))
    ]
    assert found == []


def test_the_ike_core_names_no_way_of_crash_discovery() -> None:
    """Extensions are attached, not known. Numbers of notifies are IANA's and stand in wire/constants.py."""
    names = re.compile(r"(?i:qcd|ticket|token.?(?:maker|taker)|(?<![a-z])sir(?![a-z]))|CHECK_SPI")
    found = [
        f"{file.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for file in _files("ike", "plane", "crypto", "wire")
        if file != PACKAGE / "wire/constants.py"
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if names.search(line)
    ]
    assert found == []


def test_files_stay_small_enough_to_read() -> None:
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines())
        for room in ("src", "tests")
        for file in (ROOT / room).rglob("*.py")
    }
    large = {name for name, length in lengths.items() if length > LARGEST}
    assert large - LARGE == set(), "split by reason to change"
    assert LARGE - large == set(), "no longer large: take it off the list"


def _files(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        place = PACKAGE / room
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _imported(file: Path) -> set[str]:
    """The first names of all modules that a file imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module or "")
    return {module.partition(".")[0] for module in modules}


def test_the_gateway_needs_nothing_of_the_report() -> None:
    """Template engine and plots are an extra: a gateway on a small device starts without them."""
    script = "import sys, deadpeer.cli, deadpeer.gateway.daemon, deadpeer.lab.runs; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "deadpeer" in loaded
    assert loaded & {"jinja2", "matplotlib", "numpy"} == set()
    assert loaded & {"etcd3gw", "requests"} == set()


def test_extensions_name_the_signals_that_they_match() -> None:
    """A signal that is matched and not named would never come."""
    found = {}
    for file in _files("crash"):
        for class_ in ast.parse(file.read_text()).body:
            if not isinstance(class_, ast.ClassDef):
                continue
            members = {node.name: node for node in class_.body if isinstance(node, ast.FunctionDef)}
            if "observe" not in members:
                continue
            matched = {
                ast.unparse(n.cls) for n in ast.walk(members["observe"]) if isinstance(n, ast.MatchClass)
            }
            named = {
                ast.unparse(element)
                for node in class_.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "observes"
                for element in getattr(node.value, "elts", [])
            }
            if matched != named:
                found[class_.name] = (sorted(matched), sorted(named))
    assert found == {}
