"""The project around the code: the lock fits pyproject.toml, and the documents' links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(
        r"^([\w.-]+)==[^ ]+(?: ; [^\\]+)? \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE
    )
    assert {normal(re.split(r"[<>=~! ]", name)[0]) for name in wanted} <= {normal(name) for name in pins}
    assert len(pins) == len(re.findall(r"^\S+==", lock, re.MULTILINE)), "every pin has a hash"
    assert re.findall(r"^.*(?:://|@ |--find-links|--index|--extra).*$", lock, re.MULTILINE) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (heading and heading not in headings(file)):
            dead.append(target)
    assert dead == []


def headings(file: Path) -> set[str]:
    """The anchors that a Markdown file's headings make."""
    titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_in_documents_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^\s*(?:\$ )?make ([a-z]+)", document.read_text(), re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z]+)", document.read_text()))
    assert named <= targets


def test_the_scenario_in_contributing_runs() -> None:
    [code] = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names: dict[str, Callable[[], None]] = {}
    exec(code, names)  # noqa: S102 - it is ours, and it is what newcomers copy
    [scenario] = [value for name, value in names.items() if name.startswith("test_")]
    scenario()
