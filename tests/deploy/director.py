"""A director of deploy/ipvs: a guest with IPVS in its kernel, set up as director.conf says."""

from __future__ import annotations

from pathlib import Path

from tests.deploy.cluster import SHARED, Etcd
from tests.deploy.machines import DEPLOY, Lan
from tests.support.guest import Guest, Kernel

MEMBERS = ("one", "two", "three")
CONFIG = (DEPLOY / "ipvs/director.conf").read_text()
_USER = "keepalived_script"
_CHECK = ("setpriv", f"--reuid={_USER}", "--clear-groups", "/etc/keepalived/has-lease")
_ETCDCTL = """\
ETCDCTL_ENDPOINTS=https://192.0.2.21:2379
ETCDCTL_CACERT=/etc/keepalived/etcd-ca.pem
ETCDCTL_USER=deadpeer:secret
"""
PATIENCE_S = 15
"""How long etcd may take to answer the check, where all is slow. keepalived waits three times as long."""


def remarks(part: str) -> list[str]:
    """The commands in the remarks of the configuration, those for the `directors` or the `members`."""
    lines = CONFIG.partition(f"# On the {part}:")[2].partition("\n#\n")[0].splitlines()
    return [line[6:].partition("   #")[0] for line in lines if line.startswith("#     ")]


class Director:
    """Number `number`: 203.0.113.2 or 3 on eth0, 192.0.2.2 or 3 on eth1."""

    def __init__(self, network: Lan, place: Path, which: Kernel, number: int) -> None:
        self._network = network
        self._number = number
        self._ports = {network.port(f"director{number}", device): device for device in ("eth0", "eth1")}
        place.mkdir()
        self.guest = Guest(place, which, ports=tuple(self._ports), namespace=network.switch)

    def set_up(self, etcd: Etcd) -> None:
        for port, device in self._ports.items():
            self._network.plug(port, device)
        script = ["modprobe virtio_net"]
        for device, network in (("eth0", "203.0.113"), ("eth1", "192.0.2")):
            script += [
                f"ip addr add {network}.{2 + self._number}/24 dev {device}",
                f"ip link set {device} up",
            ]
        self.must("sh", "-ec", "\n".join([*script, *remarks("directors")]))
        self.guest.install("/etc/keepalived/keepalived.conf", _config())
        self.guest.install("/etc/keepalived/has-lease", (DEPLOY / "ipvs/has-lease").read_text(), 0o755)
        self.guest.install("/etc/keepalived/etcd-ca.pem", etcd.ca)
        self.patience(PATIENCE_S)

    def patience(self, seconds: int) -> None:
        """How long the check asks etcd."""
        self.guest.install(
            "/etc/keepalived/etcdctl.env", f"{_ETCDCTL}HAS_LEASE_TIMEOUT={seconds}\n", 0o600, _USER
        )

    def start(self) -> None:
        self.guest.spawn("keepalived", "keepalived", "--dont-fork", "--log-console", "--log-detail")

    def log(self) -> str:
        return self.guest.log("keepalived")

    def must(self, *words: str) -> str:
        """What a command prints that has to succeed."""
        done = self.guest.run(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
        return done.stdout

    def serves(self) -> bool:
        """Whether it has the address."""
        return f" {SHARED}/" in self.must("ip", "addr", "show", "dev", "eth0")

    def has_lease(self, number: int) -> bool:
        """What deploy/ipvs/has-lease says, to the user that keepalived runs it as."""
        return self.guest.run(*_CHECK, str(number)).returncode == 0

    def members(self) -> set[str]:
        """Those that the service has, all of which have weight 1."""
        hosts = {f"C00002{11 + number:02X}:0000": name for number, name in enumerate(MEMBERS)}
        lines = [line.split() for line in self.must("cat", "/proc/net/ip_vs").splitlines()]
        return {hosts[line[1]] for line in lines if line[0] == "->" and line[3] == "1"}

    def sessions(self) -> dict[int, set[str]]:
        """Client (its address's last octet) -> the members that it has sessions with, from any port."""
        hosts = {f"C00002{11 + number:02X}": name for number, name in enumerate(MEMBERS)}
        found: dict[int, set[str]] = {}
        for line in self.must("cat", "/proc/net/ip_vs_conn").splitlines():
            words = line.split()
            if words[0] == "UDP":
                found.setdefault(int(words[1][-2:], 16), set()).add(hosts[words[5]])
        return found


def _config() -> str:
    """director.conf with a third member, and the patience that an emulated machine takes."""
    begin, end = CONFIG.rindex("    real_server"), CONFIG.rindex("}")
    third = CONFIG[begin:end].replace("192.0.2.12", "192.0.2.13").replace("has-lease 1", "has-lease 2")
    text = CONFIG[:end] + third + CONFIG[end:]
    return text.replace("misc_timeout 5", f"misc_timeout {3 * PATIENCE_S}").replace(
        "delay_loop 1", "delay_loop 3"
    )
