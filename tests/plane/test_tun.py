"""The TUN device in a network namespace that the test makes and that ends with its process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deadpeer.plane.host import PlaneError
from deadpeer.plane.tun import TunDevice

ROOT = Path(__file__).resolve().parents[2]
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0
    or not Path("/dev/net/tun").exists()
    or not all(map(shutil.which, ("unshare", "ip", "ping", "setpriv"))),
    reason="needs root, /dev/net/tun, and the packages iproute2, iputils-ping and util-linux",
)


def run_scenario(*arguments: str, prefix: tuple[str, ...]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [*prefix, sys.executable, "-m", "tests.plane.tun_scenario", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert isinstance(seen, dict)
    return seen


@pytest.mark.root
@NEEDS_ROOT
def test_the_kernels_ping_goes_through_the_tunnel_and_back() -> None:
    seen = run_scenario(prefix=("unshare", "--net"))
    assert (seen["ping4"], seen["ping6"]) == (0, 0)
    assert seen["esp_in"] == 6, "each echo request came through ESP, and nothing else"
    assert seen["name"] == "deadpeer0"
    assert {"10.1.0.1", "fd01::1"} <= set(seen["addresses"])
    assert "mtu 1400" in seen["link"] and "UP" in seen["link"] and "qlen 5000" in seen["link"]
    assert "10.2.0.0/24 dev deadpeer0 proto static scope link src 10.1.0.1" in seen["routes"]
    assert "fd02::/64 dev deadpeer0 proto static src fd01::1" in seen["routes6"]
    assert not seen["nonsense_written"] and not seen["written_while_down"]
    assert "10.2.0.0/24" not in seen["routes_after_removal"]
    assert "10.3.0.0/16" in seen["routes"] and "10.3.0.0/16" not in seen["routes_after_removal"]
    assert "deadpeer0" not in seen["after_close"] and "10." not in seen["after_close"]


@pytest.mark.root
@NEEDS_ROOT
def test_what_goes_wrong_is_explained() -> None:
    seen = run_scenario(prefix=("unshare", "--net"))
    assert "deadpeer0: Device or resource busy; another process holds it" in seen["busy"]
    assert "10.4.0.0/16 through deadpeer0: File exists" in seen["taken"]
    assert "another kind" in seen["kind"]
    assert "1 to 15 octets" in seen["name_too_long"]
    assert "was it deleted?" in seen["deleted"]


@pytest.mark.root
@NEEDS_ROOT
def test_a_missing_capability_or_device_is_explained() -> None:
    no_right = ("unshare", "--net", "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert "CAP_NET_ADMIN" in run_scenario("unprivileged", prefix=no_right)["refusal"]
    hidden = ("unshare", "--net", "--mount")
    refusal = run_scenario("no-device", prefix=hidden)["refusal"]
    assert refusal.startswith("/dev/net/tun: No such file") and "modprobe tun" in refusal


@pytest.mark.parametrize("name", ["", "a/b", "a b", "sixteen-octets-x"])
def test_a_bad_name_is_refused_before_anything_is_opened(name: str) -> None:
    with pytest.raises(PlaneError, match="name"):
        TunDevice(name)
