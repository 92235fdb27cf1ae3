"""The manifests of deploy/kubernetes as values, by a small parser of the YAML that they use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.deploy.machines import DEPLOY

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(file: Path) -> list[Any]:
    return [parse(part) for part in file.read_text().split("\n---\n")]


def objects() -> Iterator[Any]:
    for file in MANIFESTS:
        yield from documents(file)


def parse(text: str) -> Any:
    """Block mappings and sequences, plain and double-quoted scalars, `|`; two spaces for each level."""
    return _node(_Lines(text), 0)


class _Lines:
    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.at = 0

    def peek(self) -> tuple[int, str] | None:
        """Indentation and text of the next line that is not blank or a comment."""
        while self.at < len(self._lines):
            line = self._lines[self.at]
            if line.strip() and not line.lstrip().startswith("#"):
                assert "\t" not in line
                return len(line) - len(line.lstrip()), line.strip()
            self.at += 1
        return None

    def replace(self, line: str) -> None:
        self._lines[self.at] = line

    def block(self, indent: int) -> str:
        found = []
        while self.at < len(self._lines):
            line = self._lines[self.at]
            if line.strip() and not line.startswith(" " * indent):
                break
            found.append(line[indent:])
            self.at += 1
        return "\n".join(found).rstrip("\n") + "\n"


def _node(lines: _Lines, indent: int) -> Any:
    head = lines.peek()
    assert head is not None
    assert head[0] == indent, head
    return _sequence(lines, indent) if head[1].startswith("- ") else _mapping(lines, indent)


def _sequence(lines: _Lines, indent: int) -> list[Any]:
    found: list[Any] = []
    while (head := lines.peek()) is not None and head[0] == indent and head[1].startswith("- "):
        text = head[1][2:]
        if text == "|":
            lines.at += 1
            found.append(lines.block(indent + 2))
        elif re.match(r"[\w.@/-]+:( |$)", text):
            lines.replace(" " * (indent + 2) + text)
            found.append(_mapping(lines, indent + 2))
        else:
            lines.at += 1
            found.append(_scalar(text))
    return found


def _mapping(lines: _Lines, indent: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while (head := lines.peek()) is not None and head[0] == indent and not head[1].startswith("- "):
        name, colon, text = head[1].partition(":")
        assert colon, head
        assert name not in found, f"{name} twice"
        lines.at += 1
        if text.strip() == "|":
            found[name] = lines.block(indent + 2)
        elif text.strip():
            found[name] = _scalar(text.strip())
        else:
            found[name] = _node(lines, indent + 2)
    rest = lines.peek()
    assert rest is None or rest[0] <= indent, rest
    return found


def _scalar(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if text.startswith('"'):
        assert text.endswith('"')
        return text[1:-1]
    assert text[0] not in "[]{}&*!|>'%@`", text
    assert ": " not in text and " #" not in text, text
    return text
