"""Reading the files that a configuration names. Secrets only from files that nobody else can read."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from .errors import Problem

MAX_OCTETS = 1024 * 1024


def read_public(path: Path) -> bytes:
    """The content of a file that anybody may read. Raises Problem."""
    return _read(path, private=False)


def read_private(path: Path) -> bytes:
    """The content of a file with a secret: ours or root's, and of mode 0600 or less. Raises Problem."""
    return _read(path, private=True)


def parse_secret(content: bytes) -> bytes:
    """A shared secret as swanctl.conf writes it: raw, 0x and hexadecimal, or 0s and base64.

    One newline at the end is left out, as editors put it there. Raises Problem, which never quotes it.
    """
    raw = content.removesuffix(b"\n").removesuffix(b"\r")
    if raw[:2].lower() == b"0x":
        try:
            secret = bytes.fromhex(raw[2:].decode("ascii"))
        except ValueError:
            raise Problem("begins with 0x, but what follows is not hexadecimal; correct it") from None
    elif raw[:2] == b"0s":
        try:
            secret = base64.b64decode(raw[2:], validate=True)
        except binascii.Error:
            raise Problem("begins with 0s, but what follows is not base64; correct it") from None
    else:
        secret = raw
    if not secret:
        raise Problem("holds no secret; write one, for example: openssl rand -base64 32")
    return secret


def _read(path: Path, *, private: bool) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Problem(f"{path} does not exist; create it or correct the path") from None
    except PermissionError:
        raise Problem(f"{path} can't be read by user {os.geteuid()}; change its owner or mode") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Problem(f"{path} can't be opened ({reason}); correct the path") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Problem(f"{path} is not a file; name a file")
        if private:
            _check_private(path, status)
        if status.st_size > MAX_OCTETS:
            raise Problem(f"{path} is larger than {MAX_OCTETS} octets; name another file")
        content = os.read(handle, MAX_OCTETS)
    finally:
        os.close(handle)
    if not content.strip():
        raise Problem(f"{path} is empty; put its content there")
    return content


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise Problem(
            f"{path} belongs to user {status.st_uid}, who could change it; run: chown {os.geteuid()} {path}"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise Problem(f"{path} is readable by others (mode {mode:04o}); run: chmod 600 {path}")
