"""Debian's keepalived reads each of deploy/'s configurations for it without a remark."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.machines import DEPLOY, lan, needs

pytestmark = needs("keepalived")
SCRIPTS = ("ipvs/has-lease", "keepalived/serving", "standby/notify")


def remarks(place: Path, config: str) -> str:
    with lan(place) as network:
        machine = network.machine("one", eth0=["203.0.113.11/24"])
        user = "keepalived_script:x:6291:6291::/nonexistent:/bin/sh\n"
        machine.install("passwd", machine.read("passwd") + user)
        machine.install("group", machine.read("group") + "keepalived_script:x:6291:\n")
        machine.install("etc/keepalived.conf", config)
        for script in SCRIPTS:
            machine.install(f"etc/{Path(script).name}", (DEPLOY / script).read_text(), 0o755)
        done = machine.run("keepalived", "--config-test")
        return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("file", ["ipvs/director.conf", "keepalived/member.conf", "standby/keepalived.conf"])
def test_nothing_is_remarked(place: Path, file: str) -> None:
    assert remarks(place, (DEPLOY / file).read_text()) == ""


@pytest.mark.parametrize(
    ("line", "instead", "says"),
    [
        ("    vrrp_version 3", "    vrrp_version 2", "must be an integer"),
        ("        gateway\n", "        gatway\n", "gatway"),
    ],
)
def test_what_is_wrong_would_be(place: Path, line: str, instead: str, says: str) -> None:
    config = (DEPLOY / "standby/keepalived.conf").read_text()
    assert line in config
    assert says in remarks(place, config.replace(line, instead))
