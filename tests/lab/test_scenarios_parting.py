"""What costs nobody an SA, and a clock that is too slow, with a real etcd and real processes.

The runs' own bounds of time and loss are the lab's: a busy machine may break them. What is asked here may not
depend on how fast a machine is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs the Debian package etcd-server")

NEVER = {
    "tokens for living SAs",
    "tokens for SAs that were used again afterwards",
    "tokens for SAs that clients had and no member's log knows",
    "attackers asked",
}
"""What holds in every run, and is judged by what was said and not by when."""


def runs(*events: str) -> dict[str, dict[str, Any]]:
    """The records of a small cluster to which these things happen, by what happened."""
    command = [sys.executable, "-m", "deadpeer", "lab", "--json", "--scenario", "cluster", "--seed", "1"]
    command += ["--members", "2", "--clients", "2", "--lease", "3"]
    command += [word for event in events for word in ("--event", event)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    found = {run["lost"]: run for run in json.loads(done.stdout)["runs"]}
    assert list(found) == list(events), done.stderr
    assert (done.returncode == 0) is all(run["ok"] for run in found.values())
    return found


def broken(run: dict[str, Any], *names: str) -> list[str]:
    """Of what must hold whatever the machine, that which does not."""
    checks = {check["what"]: check for check in run["checks"]}
    assert {*names, *NEVER} <= set(checks)
    return [f"{name}: {checks[name]['measured']}" for name in (*NEVER, *names) if not checks[name]["holds"]]


@needs_etcd
@pytest.mark.timeout(300)
def test_nobody_loses_an_sa_to_a_split_or_a_drain_and_a_slow_clock_is_found() -> None:
    found = runs("split", "drain", "skew")
    split = found["split"]
    assert broken(
        split,
        "packets of the moved clients that were answered meanwhile",
        "tokens for SAs that were there",
        "IKE SAs that ended",
        "IKE SAs that were made anew",
    ) == []  # fmt: skip
    assert split["packets_lost"] > 0, "the moved clients got silence"
    assert split["verdict"] is None
    drained = found["drain"]
    assert broken(drained, "clients that were redirected") == []
    assert [client["client"] for client in drained["concerned"]] == [0, 1]
    assert drained["recover_ms"] is not None
    slow = found["skew"]
    assert broken(
        slow,
        "clients knew by",
        "it was fenced before anybody spoke for it",
        "lives that it began with a slow clock",
        "other members that took their clocks for slow",
    ) == []  # fmt: skip
    assert slow["verdict"] == "qcd-token"
