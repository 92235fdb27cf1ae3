"""What leaves a gateway that goes wrong: no memory, no text of an exception, no file for others to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.gateway.documents import base_document, write_config
from tests.gateway.processes import environment
from tests.support.loopback import LoopbackNet

SECRET = "xyzzy-0123456789"  # noqa: S105 -- of this test
HARDENED = "from deadpeer.gateway.process import harden\nharden()\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment() | {"PYTHONASYNCIODEBUG": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=90, check=False)


def test_the_kernel_is_told_to_keep_our_memory_from_others() -> None:
    ask = "import ctypes, os, resource\nprint(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),"
    ask += " *resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)))"
    assert run(ask).stdout.split()[0] == "1", "what a process is by default"
    assert run(HARDENED + ask).stdout.split() == ["0", "0", "0", "0o77"]


@pytest.mark.parametrize(
    "failure",
    [
        "fail(secret)",
        "import threading\nthread = threading.Thread(target=fail, args=(secret,))\nthread.start()",
        "class Failing:\n    def __del__(self):\n        fail(secret)\nFailing()",
        "try:\n    fail(secret)\nexcept KeyError as error:\n    raise RuntimeError(secret) from error",
    ],
    ids=["main", "thread", "destructor", "chained"],
)
def test_an_exception_that_nobody_caught_is_one_line_without_its_text(failure: str) -> None:
    code = (
        f"import sys\nsecret = sys.argv[1]\ndef fail(key):\n    raise KeyError(key, {SECRET!r})\n{failure}\n"
    )
    assert SECRET in run(code, SECRET).stderr, "what Python does by default"
    done = run(HARDENED + code, SECRET)
    assert SECRET not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("deadpeer gateway: internal error (")
    assert "<string>:" in line


@pytest.mark.parametrize(
    "broken",
    [
        "deadpeer.gateway.daemon.load",
        "deadpeer.gateway.daemon.build_endpoint",
        "deadpeer.gateway.daemon.Daemon._goodbye",
    ],
)
def test_a_gateway_with_a_mistake_in_it_says_where_and_not_what(
    place: Path, net: LoopbackNet, broken: str
) -> None:
    document = base_document()
    document["gateway"] |= {"listen": [f"{net.prefix}.1"], "port": 25500, "port_nat_t": 25501}
    config = write_config(place, document)
    code = (
        "import asyncio, sys, threading\n"
        "from unittest import mock\n"
        "import deadpeer.gateway.daemon\n"
        "from deadpeer.cli import main\n"
        "def fail(*_, **__):\n"
        f"    raise RuntimeError({SECRET!r})\n"
        "def wait(self):\n"  # nobody stops it: it stops at once
        "    async def at_once():\n"
        "        return True\n"
        "    return at_once()\n"
        f"with mock.patch({broken!r}, fail), mock.patch('asyncio.Event.wait', wait):\n"
        "    sys.exit(main(['gateway', sys.argv[1]]))\n"
    )
    done = run(code, str(config))
    assert done.returncode == 1, done
    assert SECRET not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("deadpeer gateway: internal error (RuntimeError at ")
    assert "fail)" in line
