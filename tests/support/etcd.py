"""A real etcd-server (Debian's) on loopback: a process of the test's own, in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from base64 import b64decode
from pathlib import Path

import pytest
from tests.support import signals
from tests.support.loopback import LoopbackNet

needs_etcd = pytest.mark.skipif(
    None in (shutil.which("etcd"), shutil.which("etcdctl")),
    reason="needs Debian's etcd-server and etcd-client",
)


PORT, PEER_PORT = 12379, 12380
"""Below those that the kernel gives to whoever connects: it must not have them while etcd is away."""


class EtcdServer:
    """One etcd, by itself. `tls`: (CA, certificate, key) files, with which clients must show certificates.

    `host`: a loopback address that nobody else has; one of a network of its own if none is given.
    """

    def __init__(
        self,
        place: Path,
        tls: tuple[Path, Path, Path] | None = None,
        name: str = "etcd",
        host: str | None = None,
    ) -> None:
        self.place = place / name
        self.tls = tls
        self._net = None if host is not None else LoopbackNet()
        self.host = host if self._net is None else f"{self._net.prefix}.1"
        self._process: subprocess.Popen[bytes] | None = None
        self.peers: list[EtcdServer] = [self]
        """All of this etcd cluster, the same list in each."""

    @property
    def peer(self) -> str:
        return f"http://{self.host}:{PEER_PORT}"

    @property
    def endpoint(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.host}:{PORT}"

    def start(self) -> None:
        """Start it (again, with its data) and wait until it answers."""
        self.spawn()
        self.wait()

    def spawn(self) -> None:
        """Start it."""
        peer = self.peer
        # fmt: off
        command = [
            "etcd", "--name", self.place.name, "--data-dir", str(self.place),
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", ",".join(f"{each.place.name}={each.peer}" for each in self.peers),
            "--heartbeat-interval", "50", "--election-timeout", "500",
        ]
        # fmt: on
        if self.tls is not None:
            ca, certificate, key = self.tls
            command += ["--trusted-ca-file", str(ca), "--client-cert-auth"]
            command += ["--cert-file", str(certificate), "--key-file", str(key)]
        environment = {"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": "arm64"}
        with open(f"{self.place}.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """It is gone at once; its data stays."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """It answers nobody."""
        signals.freeze(self.process.pid)

    def thaw(self) -> None:
        """It goes on."""
        signals.thaw(self.process.pid)

    def control(self, *words: str) -> str:
        """What etcdctl prints."""
        done = subprocess.run(
            ["etcdctl", "--endpoints", self.endpoint, *words],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restore(self, backup: Path) -> None:
        """While it is not running: have the data of the snapshot, under the same cluster token and peers."""
        shutil.rmtree(self.place)
        # fmt: off
        self.control(
            "snapshot", "restore", str(backup), "--data-dir", str(self.place), "--name", self.place.name,
            "--initial-cluster", f"{self.place.name}={self.peer}",
            "--initial-advertise-peer-urls", self.peer,
        )
        # fmt: on

    def contents(self) -> dict[str, str]:
        """All keys and their values."""
        found = json.loads(self.control("get", "", "--prefix", "-w", "json")).get("kvs", ())
        return {
            b64decode(kv["key"]).decode(): b64decode(kv["value"]).decode(errors="replace") for kv in found
        }

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
        if self._net is not None:
            self._net.close()

    @property
    def leads(self) -> bool:
        """Whether it is Raft's leader."""
        [status] = json.loads(self.control("endpoint", "status", "-w", "json"))
        found: dict[str, dict[str, int]] = status["Status"]
        return found["leader"] == found["header"]["member_id"]

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + 60
        while True:
            try:
                if self.tls is not None:
                    socket.create_connection((self.host, PORT), 1).close()
                    return
                with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:  # noqa: S310
                    if json.load(answer)["health"] == "true":
                        return
            except (OSError, ValueError):
                pass
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(
                    f"etcd does not answer:\n{Path(f'{self.place}.log').read_text()[-2000:]}"
                )
            time.sleep(0.05)
