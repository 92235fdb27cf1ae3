"""Members of a cluster as deploy/member has them, and an etcd as docs/cluster.md sets it up: TLS, a user.

One etcd has the addresses of all three, which is enough for what is tried here.
"""

from __future__ import annotations

import datetime
import subprocess
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.deploy.machines import DEPLOY, ROOT, Lan, Machine, until

SHARED = "203.0.113.10"
LEASE_S = 4
ETCD = ("192.0.2.21", "192.0.2.22", "192.0.2.23")


class Etcd:
    """Debian's etcd on a machine of its own."""

    def __init__(self, network: Lan) -> None:
        self.machine = network.machine("etcd", eth1=[f"{address}/24" for address in ETCD])
        self._certificate()

    @property
    def ca(self) -> str:
        return self.machine.read("opt/ca.pem")

    def start(self) -> None:
        """Start it, wait until it answers, and have the members as its user."""
        words = ["etcd", "--name=etcd", "--data-dir=/var/lib/etcd"]
        words += [
            "--listen-client-urls=https://0.0.0.0:2379",
            "--advertise-client-urls=https://192.0.2.21:2379",
        ]
        words += ["--cert-file=/opt/etcd.pem", "--key-file=/opt/etcd.key"]
        # Else each login costs it 60 ms of CPU, which is more than a busy machine has in time.
        words += ["--bcrypt-cost=4"]
        self.machine.spawn("etcd", self.machine.command("env", "ETCD_UNSUPPORTED_ARCH=arm64", *words))
        until(lambda: self._control("endpoint", "health").returncode == 0, lambda: self.machine.log("etcd"))
        for line in commands():
            words = line.partition("#")[0].split()[1:]
            given = ["--new-user-password=secret"] if words[:2] == ["user", "add"] else []
            done = self._control(*words, *given)
            assert done.returncode == 0, f"{line}: {done.stderr}"

    def _control(self, *words: str) -> subprocess.CompletedProcess[str]:
        there = ["--endpoints=https://192.0.2.21:2379", "--cacert=/opt/ca.pem"]
        return self.machine.run("env", "ETCDCTL_API=3", "etcdctl", *there, *words)

    def _certificate(self) -> None:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd")])
        hosts = [x509.IPAddress(ip_address(address)) for address in ETCD]
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .sign(key, SHA256())
        )
        pem = made.public_bytes(Encoding.PEM).decode()
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        for file, text in (("ca.pem", pem), ("etcd.pem", pem), ("etcd.key", secret)):
            self.machine.install(f"opt/{file}", text)


def commands() -> list[str]:
    """The etcdctl commands of docs/cluster.md."""
    text = (ROOT / "docs/cluster.md").read_text()
    return [line.strip() for line in text.splitlines() if line.startswith("    etcdctl ")]


def member_files(machine: Machine, number: int, etcd: Etcd, listen: str = SHARED) -> None:
    """deploy/member's files for this member. The lease is shorter, to wait less for the end of one."""
    text = (DEPLOY / "member/gateway.toml").read_text()
    text = text.replace("member = 0", f"member = {number}").replace(SHARED, listen)
    text = text.replace("192.0.2.11:4501", f"192.0.2.{11 + number}:4501")
    text = text.replace('lease = "5s"', f'lease = "{LEASE_S}s"')
    machine.install("opt/deadpeer/gateway.toml", text)
    machine.install("opt/deadpeer/cluster.key", "7e" * 32 + "\n", 0o600)
    machine.install("opt/deadpeer/clients.psk", "only for this test\n", 0o600)
    machine.install("opt/deadpeer/etcd.password", "secret\n", 0o600)
    machine.install("opt/deadpeer/etcd-ca.pem", etcd.ca)
