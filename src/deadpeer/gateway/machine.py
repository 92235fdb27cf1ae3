"""Which machine this is: what a copy of the state directory on another machine would not find there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SOURCES = (Path("/etc/machine-id"), Path("/sys/class/dmi/id/product_uuid"))
"""The identity of the installation, and of the (virtual) hardware: a cloned disk often keeps the first."""


def machine_id(state_dir: Path, sources: Sequence[Path] = SOURCES) -> bytes:
    """Octets that differ between machines and stay the same on one; never empty.

    Where none of `sources` can be read (containers), the state directory's own inode: a copy has another.
    """
    found = [f"{path.name}={text}" for path in sources if (text := _read(path))]
    return "\n".join(found or [f"inode={state_dir.stat().st_ino}"]).encode()


def _read(path: Path) -> str:
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    # systemd's word for an image that has no identity yet
    return "" if text == "uninitialized" else text
