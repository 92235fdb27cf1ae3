"""A guest with Debian's kernel, for what the kernel at hand lacks: IPVS, ESP, and the like.

qemu boots it in some seconds, by default without KVM: what runs there is some ten times slower. The guest has
all files of this machine (9p, read-only, below an overlay in memory), so programs are at their places; and
nothing that it writes is seen here, but for what it writes to EXCHANGE. Whoever runs in it is root there. Its
Ethernet devices are ports for a bridge of this machine (then it takes root here); without any it takes no
privilege.

The kernel is a package of Debian's, unpacked into a cache directory and never installed (`make kernel`).

    with Guest(place, kernel()) as guest:
        assert guest.run("modprobe", "ip_vs").returncode == 0
"""

from __future__ import annotations

import lzma
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from zlib import crc32

import pytest

EXCHANGE = "/exchange"
"""In the guest: a directory of this machine's, `Guest.exchange`."""
BOOT_S = 120.0
"""How long booting may take, on a machine that is busy with other things."""

PACKAGES = ("qemu-system-x86", "busybox-static", "kmod", "util-linux")
_META = "linux-image-amd64"
_KEPT = ["arch/x86/crypto", "crypto", "drivers/net", "drivers/virtio", "lib", "net"]
_KEPT += [f"fs/{each}" for each in ("9p", "fscache", "netfs", "overlayfs")]
_DROPPED = ("net/ethernet", "net/wireless", "net/bluetooth", "net/mac80211")
_EARLY = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

_INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
for module in $(cat /order); do insmod "/modules/$module"; done
share=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "ro,cache=loose,$share" files /lower
mount -t tmpfs -o size=75% none /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work none /whole
cd /whole
for directory in exchange proc sys dev run lib/modules; do mkdir -p "$directory"; done
mount -t 9p -o "cache=none,$share" exchange exchange
mount -t proc none proc
mount -t sysfs none sys
mount -t tmpfs -o mode=755 none run
mount --move /dev dev
mkdir -p dev/pts dev/shm
mount -t devpts none dev/pts
mount -t tmpfs none dev/shm
mount --bind "./$(cat /lib_modules)" lib/modules
ip link set lo up
hostname guest
exec 3<> dev/ttyS1
stty raw -echo <&3
echo 0 >&3
chroot . /bin/sh -c '
cd /exchange
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
while read -r number; do
    (cd / && exec sh "/exchange/$number.script") > "$number.out" 2> "$number.errors" < /dev/null
    echo $?
done' <&3 >&3
reboot -f
"""

_MODPROBE = """\
#!/bin/busybox sh
exec /bin/busybox chroot /whole /sbin/modprobe "$@"
"""
# What the kernel starts when it wants a module: at its own root, which is not that of the rest.


class GuestError(Exception):
    """The guest does not start, has ended, or does not answer. With what its console says."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, and the directory that has its modules as /lib/modules has them."""

    image: Path
    modules: Path
    release: str


def cache() -> Path:
    """Where kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deadpeer" / "kernels"


def kernel() -> Kernel | None:
    """The newest kernel of the cache."""
    found = sorted(cache().glob("*/image"), key=lambda image: image.stat().st_mtime)
    if not found:
        return None
    there = found[-1].parent
    return Kernel(there / "image", there / "lib/modules", there.name)


def missing() -> str:
    """What there is to do before a guest can be booted; empty if nothing."""
    programs = {"qemu-system-x86_64": PACKAGES[0], "modprobe": PACKAGES[2], "setpriv": PACKAGES[3]}
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    lacking = [package for name, package in programs.items() if shutil.which(name, path=path) is None]
    lacking += [] if _busybox() else [PACKAGES[1]]
    steps = [f"apt install {' '.join(lacking)}"] if lacking else []
    steps += [] if kernel() else ["make kernel"]
    return " && ".join(steps)


def needs_guest() -> list[pytest.MarkDecorator]:
    """Marks for a module that boots guests."""
    todo = missing()
    return [
        pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
        pytest.mark.skipif(bool(todo), reason=f"needs a guest kernel: {todo}"),
    ]


class Guest:
    """A guest with a shell. `place`: a directory of a short name, for its files.

    Its eth0, eth1, ... are the `ports`, in this order: taps of these names that qemu makes in the network
    namespace `namespace`, to be put on a bridge and up.
    """

    def __init__(
        self,
        place: Path,
        which: Kernel,
        *,
        ports: Sequence[str] = (),
        namespace: str | None = None,
        memory_mb: int = 1024,
        cpus: int = 1,
    ) -> None:
        self._place = place
        self._kernel = which
        self._size = ["-m", str(memory_mb), "-smp", str(cpus)]
        self._ports = tuple(ports)
        self._inside = ["ip", "netns", "exec", namespace] if namespace else []
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: socket.socket | None = None
        self._number = 0
        self.exchange = place / "exchange"
        self.exchange.mkdir()

    def __enter__(self) -> Guest:
        """Start booting; the first command waits for it."""
        initramfs = self._place / "initramfs"
        initramfs.write_bytes(_initramfs(self._kernel))
        with (self._place / "console").open("wb") as console:
            self._process = subprocess.Popen(
                self._command(initramfs),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._shell = self._connect(time.monotonic() + BOOT_S)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End the guest, as pulling the plug would."""
        if self._shell is not None:
            self._shell.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def run(self, *words: str, timeout_s: float = BOOT_S) -> subprocess.CompletedProcess[str]:
        """Run a command as root to its end, whatever its status. Raises GuestError."""
        return self._script(f"exec {shlex.join(words)}\n", timeout_s)

    def spawn(self, what: str, *words: str) -> int:
        """Start a command in the background; `log` has what it says. Returns its process ID in the guest."""
        return int(
            self._script(f"{shlex.join(words)} > {EXCHANGE}/{what}.log 2>&1 &\necho $!\n", BOOT_S).stdout
        )

    def log(self, what: str) -> str:
        """What a command that was spawned has said so far."""
        return _text(self.exchange / f"{what}.log")

    def install(self, where: str, text: str, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file in the guest."""
        (self.exchange / "file").write_text(text)
        done = self.run("install", "-D", f"-o{owner}", "-groot", f"-m{mode:o}", f"{EXCHANGE}/file", where)
        assert done.returncode == 0, done.stderr

    def console(self) -> str:
        """What the kernel said, and qemu."""
        return _text(self._place / "console")

    def _command(self, initramfs: Path) -> list[str]:
        share = "security_model=none,multidevs=remap"
        # fmt: off
        command = [
            *self._inside,
            # Whatever becomes of this process, the guest does not outlive it.
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-machine", "q35", "-bios", "qboot.rom", *_accelerator(), *self._size,
            "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
            "-serial", "stdio",
            "-chardev", f"socket,id=shell,path={self._place / 'shell'},server=on,wait=off",
            "-serial", "chardev:shell",
            "-kernel", str(self._kernel.image), "-initrd", str(initramfs),
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
            "-virtfs", f"local,path=/,mount_tag=files,readonly=on,{share}",
            "-virtfs", f"local,path={self.exchange},mount_tag=exchange,{share}",
        ]
        # fmt: on
        for number, port in enumerate(self._ports):
            command += ["-netdev", f"tap,id=port{number},ifname={port},script=no,downscript=no"]
            mac = b"\x02\x00" + crc32(port.encode()).to_bytes(4, "big")
            command += ["-device", f"virtio-net-pci,netdev=port{number},mac={mac.hex(':')}"]
        return command

    def _script(self, text: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Have the guest's shell run these lines."""
        end = time.monotonic() + timeout_s
        assert self._shell is not None
        if self._number == 0:
            self._listen(self._shell, end, "booting")
        self._number += 1
        script, out, errors = (
            self.exchange / f"{self._number}.{each}" for each in ("script", "out", "errors")
        )
        script.write_text(text)
        self._shell.sendall(b"%d\n" % self._number)
        status = self._listen(self._shell, end, text)
        return subprocess.CompletedProcess(text, status, _text(out), _text(errors))

    def _listen(self, shell: socket.socket, end: float, to: str) -> int:
        """The number that the guest's shell says next."""
        said = b""
        while not said.endswith(b"\n"):
            shell.settimeout(max(0.01, end - time.monotonic()))
            try:
                part = shell.recv(100)
            except TimeoutError:
                raise GuestError(f"does not come to an end: {to}\n{self.console()}") from None
            if not part:
                raise GuestError(f"has ended: {to}\n{self.console()}")
            said += part
        return int(said)

    def _connect(self, end: float) -> socket.socket:
        """The shell's line. At once: what is said while nobody listens is lost."""
        assert self._process is not None
        while True:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.connect(str(self._place / "shell"))
                break
            except OSError as error:
                made.close()
                if self._process.poll() is not None or time.monotonic() > end:
                    raise GuestError(f"does not start: {error}\n{self.console()}") from None
                time.sleep(0.05)
        return made


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _accelerator() -> list[str]:
    """KVM only if it is asked for: where a guest is the host, there may be one that does not work."""
    how = os.environ.get("DEADPEER_GUEST", "tcg,thread=multi")
    return ["-accel", how, "-cpu", "max"]


# --- the initramfs ---------------------------------------------------------------------------------------


def _initramfs(which: Kernel) -> bytes:
    """A cpio archive (newc) of busybox, _INIT, and the modules that it takes to see this machine's files."""
    busybox = _busybox()
    assert busybox is not None
    files = {
        "bin/busybox": (busybox.read_bytes(), 0o100755),
        "init": (_INIT.encode(), 0o100755),
        "sbin/modprobe": (_MODPROBE.encode(), 0o100755),
    }
    order = _with_dependencies(which, _EARLY)
    for module in order:
        files[f"modules/{module.name}"] = (module.read_bytes(), 0o100644)
    files["order"] = (" ".join(module.name for module in order).encode(), 0o100644)
    files["lib_modules"] = (str(which.modules).encode(), 0o100644)
    directories = ("bin", "dev", "proc", "lower", "memory", "modules", "sbin", "whole")
    entries = [(name, b"", 0o040755) for name in directories]
    entries += [(name, data, mode) for name, (data, mode) in files.items()]
    entries += [("TRAILER!!!", b"", 0)]
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))


def _entry(inode: int, name: str, data: bytes, mode: int) -> bytes:
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, data))


def _with_dependencies(which: Kernel, names: Sequence[str]) -> list[Path]:
    """Files of modules, each after those that it needs."""
    top = which.modules / which.release
    needed: dict[str, list[str]] = {}
    for line in (top / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needed[module] = others.split()
    by_name = {Path(module).stem: module for module in needed}
    found: dict[str, None] = {}
    for module in (by_name[name] for name in names if name in by_name):
        found |= dict.fromkeys([*reversed(needed[module]), module])
    return [top / module for module in found]


def _busybox() -> Path | None:
    """A busybox that needs no library."""
    found = shutil.which("busybox")
    return Path(found) if found and b"ld-linux" not in Path(found).read_bytes()[:4096] else None


# --- make kernel -----------------------------------------------------------------------------------------


def fetch() -> Kernel:
    """Debian's newest kernel, unpacked into the cache. Raises CalledProcessError if apt can't have it."""
    shown = _apt("apt-cache", "depends", "--important", _META)
    package = next(
        line.split()[-1] for line in shown.splitlines() if line.strip().startswith("Depends: linux-image-")
    )
    release = package.removeprefix("linux-image-")
    there = cache() / release
    if not (there / "image").exists():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as name:
            made = _unpack(Path(name), package, release)
            shutil.rmtree(there, ignore_errors=True)
            made.rename(there)
    return Kernel(there / "image", there / "lib/modules", release)


def _unpack(place: Path, package: str, release: str) -> Path:
    """A directory with `image` and `lib/modules`, the latter with what a guest can use."""
    _apt("apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root", "download", package, directory=place)
    made = place / "made"
    made.mkdir()
    archive = next(place.glob("*.deb"))
    kept = [f"./lib/modules/{release}/kernel/{each}" for each in _KEPT]
    kept += [f"./lib/modules/{release}/modules.{each}" for each in ("builtin", "builtin.modinfo", "order")]
    dropped = [f"--exclude=*/{each}" for each in _DROPPED]
    unpacking = f"dpkg --fsys-tarfile {shlex.quote(str(archive))} | tar -x -C {shlex.quote(str(made))} "
    unpacking += f"{shlex.join(dropped)} "
    boot = f"./boot/vmlinuz-{release}"
    subprocess.run(["sh", "-c", f"{unpacking}{shlex.join([boot, *kept])}"], check=True, timeout=300)
    subprocess.run(["/sbin/depmod", "-b", str(made), release], check=True, timeout=60)
    # qemu starts a kernel without compression some seconds sooner.
    packed = (made / boot).read_bytes()
    begin = packed.find(b"\xfd7zXZ\x00")
    image = packed if begin < 0 else lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(packed[begin:])
    (made / "image").write_bytes(image)
    shutil.rmtree(made / "boot")
    return made


def _apt(*words: str, directory: Path | None = None) -> str:
    """Run a command of apt's, again with a newer list of packages if it fails and we may."""
    for update in (False, True):
        if update and os.geteuid() == 0:
            subprocess.run(["apt-get", "--quiet=2", "update"], check=True, timeout=300)
        done = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, check=False, timeout=300, cwd=directory
        )
        if done.returncode == 0:
            return done.stdout
    raise subprocess.CalledProcessError(done.returncode, words)


if __name__ == "__main__":
    try:
        print(fetch().image)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"no kernel for guests: {error}; it takes Debian's apt, dpkg, tar and depmod (package kmod)")
