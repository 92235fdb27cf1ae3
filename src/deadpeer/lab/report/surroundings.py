"""Where a report was made: machine, versions, commit. Read from the system, nothing measured."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from deadpeer.lab.costs import openssl
from deadpeer.lab.report.model import Environment

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def surroundings(command: str) -> Environment:
    """The machine and the versions; `command` is what was typed."""
    return Environment(
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=command,
        commit=_commit(),
        machine=_machine(),
        kernel=f"{platform.system()} {platform.release()}, {platform.machine()}",
        packages=(
            ("deadpeer", version("deadpeer")),
            ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
            ("cryptography", version("cryptography")),
            ("OpenSSL of cryptography", openssl()),
            ("OpenSSL of Python", ssl.OPENSSL_VERSION),
        ),
    )


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    memory_gb = _number(MEMINFO, "MemTotal") / 1e6
    model = _line(CPUINFO, "model name") or platform.processor() or "unknown processor"
    return f"{model}, {cores} core{'' if cores == 1 else 's'}, {memory_gb:.0f} GB"


def _line(path: Path, name: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _number(path: Path, name: str) -> float:
    first = _line(path, name).split(" ")[0]
    return float(first) if first.isdigit() else 0.0


def _commit() -> str:
    """Of the checkout that this code lies in; an installed package has none."""
    here = Path(__file__).parent
    words = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
