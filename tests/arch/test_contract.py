"""The import contract of pyproject.toml holds, and it bites."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"

BREACHES = [
    ("ike/timers.py", "from deadpeer.crash.limiter import Limiter", "the rooms lie one above the other"),
    ("plane/esp.py", "from deadpeer.ike.io import Event", "the rooms lie one above the other"),
    ("wire/cursor.py", "from deadpeer.values import Now", "wire stands alone"),
    ("crypto/keys.py", "from deadpeer.values import Now", "crypto knows only wire"),
    ("plane/replay.py", "from deadpeer.store import Store", "a data plane keeps nothing on disk"),
    ("ike/timers.py", "from deadpeer.plane.engine import EspEngine", "ike speaks to a data plane"),
    ("ike/table.py", "from deadpeer.cluster.spi import SpiCodec", "ike speaks to a data plane"),
    ("crash/limiter.py", "from deadpeer.ike.sa import IkeSa", "crash knows of ike only"),
    ("crash/limiter.py", "from deadpeer.plane.engine import EspEngine", "crash knows of ike only"),
    ("gateway/runtime.py", "from deadpeer.ike.endpoint import Endpoint", "only assembly joins crash"),
]


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        LINT,
        "--no-logo",
        "--no-cache",
        "--config",
        str(ROOT / "pyproject.toml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=source.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_the_import_contract_holds() -> None:
    done = lint(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("file", "line", "contract"), BREACHES)
def test_a_breach_is_found(tmp_path: Path, file: str, line: str, contract: str) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    with (source / "deadpeer" / file).open("a") as code:
        code.write(f"\n{line}\n")
    done = lint(source)
    assert done.returncode != 0
    assert any(contract in text and "BROKEN" in text for text in done.stdout.splitlines()), done.stdout
