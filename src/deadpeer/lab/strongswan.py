"""An unmodified strongSwan (Debian's charon) as a peer inside a network namespace: started, killed, asked.

The kernel here may have no ESP: charon's kernel-libipsec carries it, always UDP-encapsulated on port 4500.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from deadpeer.lab.options import LabError
from deadpeer.lab.process import Process, launch, run

CHARON = Path("/usr/lib/ipsec/charon")
SWANCTL = "swanctl"
PLUGINS = (
    "random nonce openssl pem pkcs1 x509 pubkey hmac kdf sha2 sha1 gcm aes curve25519 "
    "kernel-libipsec kernel-netlink socket-default vici updown"
)
START_TIMEOUT_S = 10.0


def require_strongswan() -> None:
    """Raise LabError (usage) if Debian's strongSwan is not installed."""
    if not CHARON.exists() or shutil.which(SWANCTL) is None:
        raise LabError(
            "--peer strongswan needs the Debian packages strongswan-charon, strongswan-swanctl, "
            "libcharon-extra-plugins and libstrongswan-extra-plugins",
            usage=True,
        )


class Charon:
    """One charon. Its files and its vici socket are in `directory`, which outlives it.

    `namespace` is where it runs; its /run is a mount of its own, because charon keeps its pid file there.
    """

    def __init__(self, directory: Path, namespace: str) -> None:
        self._directory = directory
        self._namespace = namespace
        self._process: Process | None = None
        self.log = directory / "charon.log"
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        return f"unix://{self._directory}/vici"

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Start it and wait until it answers on its socket. Raises LabError."""
        conf = self._directory / "strongswan.conf"
        conf.write_text(_strongswan_conf(self._directory, self.log))
        socket = self._directory / "vici"
        socket.unlink(missing_ok=True)
        inside = f"mount -t tmpfs t /run && STRONGSWAN_CONF={shlex.quote(str(conf))} exec {CHARON}"
        process = self._process = await launch(
            "charon", ["ip", "netns", "exec", self._namespace, "unshare", "-m", "bash", "-c", inside]
        )
        end = time.monotonic() + START_TIMEOUT_S
        while not socket.exists():
            if not process.running or time.monotonic() > end:
                raise LabError(f"charon did not start{process.last_words()}")
            await asyncio.sleep(0.01)

    async def kill(self) -> int:
        """SIGKILL; the moment it was sent, monotonic ns."""
        process = self._running()
        at_ns = time.monotonic_ns()
        process.kill()
        await process.stop()
        return at_ns

    async def stop(self) -> None:
        """End it politely: it deletes its SAs."""
        if self._process is not None:
            await self._process.stop()

    async def load(self, swanctl_conf: str) -> None:
        """Replace its connections and secrets by those of a swanctl.conf's text. Raises LabError."""
        path = self._directory / "swanctl.conf"
        path.touch(mode=0o600)
        path.write_text(swanctl_conf)
        await self._swanctl("--load-all", "--file", str(path))

    async def initiate(self, child: str) -> None:
        """Bring up a child SA. Raises LabError if that fails."""
        await self._swanctl("--initiate", "--child", child)

    async def list_sas(self) -> str:
        """What swanctl says about its SAs."""
        return await self._swanctl("--list-sas")

    def log_text(self) -> str:
        """charon's log so far, of all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _running(self) -> Process:
        if self._process is None:
            raise LabError("charon was not started")
        return self._process

    async def _swanctl(self, *words: str) -> str:
        return await run([SWANCTL, *words, "--uri", self.uri])


class LogFollower:
    """Calls `emit` with each line that charon adds to its log."""

    def __init__(self, path: Path, emit: Callable[[str], None]) -> None:
        self._path = path
        self._emit = emit
        self._offset = 0

    def poll(self) -> None:
        """Read what is new; complete lines only."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].decode(errors="replace").splitlines():
            self._emit(line)


def responder_conf(
    *,
    local: str,
    remote: str,
    local_id: str,
    remote_id: str,
    local_ts: str,
    remote_ts: str,
    secret: str,
    ike: str,
    esp: str,
) -> str:
    """swanctl.conf of a connection by shared key that waits for its peer."""
    return f"""connections {{
  lab {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {ike}
    encap = yes
    local {{
      auth = psk
      id = {local_id}
    }}
    remote {{
      auth = psk
      id = {remote_id}
    }}
    children {{
      inner {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {esp}
      }}
    }}
  }}
}}
secrets {{
  ike-lab {{
    id-1 = {local_id}
    id-2 = {remote_id}
    secret = "{secret}"
  }}
}}
"""


def _strongswan_conf(directory: Path, log: Path) -> str:
    return f"""charon {{
  load_modular = no
  load = {PLUGINS}
  plugins {{
    vici {{
      socket = unix://{directory}/vici
    }}
  }}
  filelog {{
    lab {{
      path = {log}
      default = 1
      ike = 2
      flush_line = yes
      append = yes
    }}
  }}
}}
"""
