"""What every driver of an unmodified charon shares: its files, its command line, strongSwan's notation.

charon runs inside a network namespace, with a /run of its own, because its pid file is there. The kernel may
have no ESP: charon's kernel-libipsec carries it, always UDP-encapsulated on port 4500.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CHARON = Path("/usr/lib/ipsec/charon")
SWANCTL = "swanctl"
PACKAGES = "strongswan-charon, strongswan-swanctl, libcharon-extra-plugins and libstrongswan-extra-plugins"
"""Debian's packages that have what is needed."""
# Without kdf it answers nothing; updown sets the routes.
PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 pubkey hmac kdf sha2 sha1 gcm aes chapoly curve25519 "
    "kernel-libipsec kernel-netlink socket-default vici updown"
)


def missing() -> str | None:
    """What this machine lacks to run charon, in a few words, or None."""
    for path in (CHARON, CHARON.parent / "plugins" / "libstrongswan-kernel-libipsec.so"):
        if not path.exists():
            return f"{path} (Debian: {PACKAGES})"
    for command, package in ((SWANCTL, "strongswan-swanctl"), ("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(command) is None:
            return f"the command {command} (Debian: {package})"
    return None


def sections(tree: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """The lines of a strongswan.conf or swanctl.conf: tables become sections, one setting a line."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key} {{"
            yield from sections(value, indent + "  ")
            yield f"{indent}}}"
        elif isinstance(value, bool):
            yield f"{indent}{key} = {'yes' if value else 'no'}"
        else:
            yield f"{indent}{key} = {value}"


class CharonFiles:
    """The files of one charon, in a directory that outlives it.

    `settings` are further lines of strongswan.conf's `charon` section by dotted key, for example
    `{"retransmit_timeout": "1.0"}`; they hold from the next `prepare`.
    """

    def __init__(
        self, directory: Path, namespace: str | None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.settings = dict(settings or {})
        self.socket = directory / "vici"
        self.log = directory / "charon.log"
        self.uri = f"unix://{self.socket}"
        self._namespace = namespace

    def prepare(self) -> list[str]:
        """Write strongswan.conf, remove an old control socket; the command that starts charon.

        Each of its programs replaces itself by the next one: its process is charon's in the end.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        conf = self.directory / "strongswan.conf"
        conf.write_text("\n".join(sections({"charon": self._settings()})) + "\n")
        self.socket.unlink(missing_ok=True)
        inside = f"mount -t tmpfs tmpfs /run && STRONGSWAN_CONF={shlex.quote(str(conf))} exec {CHARON}"
        command = ["unshare", "--mount", "sh", "-c", inside]
        return command if self._namespace is None else ["ip", "netns", "exec", self._namespace, *command]

    def swanctl(self, *words: str) -> list[str]:
        """The command line of swanctl, to this charon."""
        return [SWANCTL, *words, "--uri", self.uri]

    @property
    def swanctl_directory(self) -> Path:
        """What SWANCTL_DIR must name, for keys and certificates to be found in it."""
        return self.directory / "swanctl"

    def write_connections(self, text: str) -> list[str]:
        """Write a swanctl.conf, readable by nobody else; the command line that loads it."""
        self.swanctl_directory.mkdir(parents=True, exist_ok=True)
        path = self.swanctl_directory / "swanctl.conf"
        path.touch(mode=0o600)
        path.write_text(text)
        return self.swanctl("--load-all", "--file", str(path))

    def log_text(self) -> str:
        """What charon logged since the directory was made, over all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _settings(self) -> dict[str, Any]:
        flat = {
            "load_modular": "no",
            "load": PLUGINS,
            "plugins.vici.socket": self.uri,
            "filelog.log.path": str(self.log),
            "filelog.log.append": "yes",
            "filelog.log.flush_line": "yes",
            "filelog.log.time_format": "%T",
            "filelog.log.time_add_ms": "yes",
            "filelog.log.default": "1",
            "filelog.log.ike": "2",
            "filelog.log.cfg": "2",
            **self.settings,
        }
        tree: dict[str, Any] = {}
        for key, value in flat.items():
            *names, last = key.split(".")
            place = tree
            for name in names:
                place = place.setdefault(name, {})
            place[last] = value
        return tree
