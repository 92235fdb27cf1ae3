"""From the table [cluster] to its frozen options: judges what needs several keys, or another file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from deadpeer.cluster.fence import Margin
from deadpeer.cluster.membership import KEEPALIVES
from deadpeer.cluster.secrets import SECRET_SIZE
from deadpeer.cluster.steps import ttl_of
from deadpeer.rates import Rate
from deadpeer.values import Address

from .errors import Problem, Problems
from .files import read_private, read_public
from .notation import parse_host
from .schema_cluster import ClusterSection

ELECTION_S = 2.0
"""How long etcd may be without a leader when it loses one: at most twice its election timeout, which is 1 s
unless somebody has changed it."""


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How etcd is reached. `endpoints`: at least one, "http://host:port" or "https://host:port"."""

    endpoints: tuple[str, ...]
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Membership of a cluster. `key`: 32 octets. `lease_s`: within what time a dead member is to be written
    off. `forward`: where we take forwarded datagrams, or None. `advertise`: where the others are told to send
    them, or None."""

    name: str
    member: int
    key: bytes = field(repr=False)
    etcd: EtcdOptions
    lease_s: int
    margin: Margin
    forward: Address | None
    advertise: Address | None
    forward_rate: Rate

    @property
    def ttl_s(self) -> int:
        """What etcd is asked for: how long our lease lasts after a keepalive, seconds."""
        return ttl_of(self.lease_s)

    @property
    def usable_s(self) -> float:
        """For how much of that we serve, from the sending of a keepalive, with a clock that was measured."""
        return self.margin.usable_s(self.ttl_s)

    @property
    def spare_s(self) -> float:
        """How long etcd may be away, whenever it goes, before we are fenced."""
        return max(0.0, self.usable_s - self.ttl_s / KEEPALIVES)


def resolve_cluster(section: ClusterSection, directory: Path, problems: Problems) -> ClusterOptions | None:
    """The frozen options, or None if there was any problem, which is noted in `problems`."""
    before = len(problems)
    key = problems.get("cluster.key_file", lambda: _cluster_key(directory / section.key_file))
    endpoints = problems.get("cluster.etcd", lambda: tuple(_endpoint(text) for text in section.etcd)) or ()
    tls = any(endpoint.startswith("https:") for endpoint in endpoints)
    ca = problems.get("cluster.etcd_ca", lambda: _file(section.etcd_ca, directory, tls))
    if endpoints:
        problems.check("cluster.etcd_ca", lambda: _check_ca(section, tls))
    certificate = problems.get("cluster.etcd_cert", lambda: _file(section.etcd_cert, directory, tls))
    private = problems.get("cluster.etcd_key", lambda: _file(section.etcd_key, directory, tls, private=True))
    problems.check("cluster.etcd_key", lambda: _check_pair(section.etcd_cert, section.etcd_key, "etcd_key"))
    problems.check("cluster.etcd_cert", lambda: _check_pair(section.etcd_key, section.etcd_cert, "etcd_cert"))
    password = problems.get("cluster.etcd_password_file", lambda: _password(section, directory))
    problems.check("cluster.etcd_user", lambda: _check_user(section))
    margin = Margin(section.drift, section.margin)
    problems.check("cluster.lease", lambda: _check_lease(section.lease))
    problems.check("cluster.margin", lambda: _check_margin(section.lease, margin))
    forward = problems.get("cluster.forward_listen", lambda: _forward(section))
    advertise = problems.get("cluster.forward_advertise", lambda: _advertise(section)) or forward
    if key is None or len(problems) > before:
        return None
    return ClusterOptions(
        name=section.name,
        member=section.member,
        key=key,
        etcd=EtcdOptions(endpoints, ca, certificate, private, section.etcd_user, password),
        lease_s=int(section.lease),
        margin=margin,
        forward=forward,
        advertise=advertise,
        forward_rate=Rate(section.forward_rate, section.forward_rate),
    )


def cautions(options: ClusterOptions) -> Iterator[str]:
    """What works, and may not be what somebody wants; for `deadpeer check`."""
    hosts = {endpoint: urlsplit(endpoint).hostname or "" for endpoint in options.etcd.endpoints}
    bare = [each for each, host in hosts.items() if each.startswith("http:") and not _is_here(host)]
    if options.etcd.user is not None and bare:
        yield f"the password of etcd_user goes over the network in the clear, to {', '.join(bare)}; use https://"
    names = [host for host in hosts.values() if _address(host) is None and not _is_here(host)]
    if names:
        yield (
            f"etcd is named by {', '.join(names)}: while DNS does not answer, no keepalive gets through that"
            " needs a new connection, and this member is fenced; name addresses"
        )
    if options.spare_s < ELECTION_S:
        yield (
            f"etcd may be away for {options.spare_s:.2f} s only, and takes up to {ELECTION_S:g} s to elect a"
            " leader, during which this member is fenced; a longer lease bears that, for example: lease = 5"
        )


def _is_here(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _cluster_key(path: Path) -> bytes:
    text = read_private(path).strip()
    remedy = f"make one and copy it to all members: openssl rand -hex {SECRET_SIZE} > {path}"
    found = decoded_key(text)
    if found is None:
        raise Problem(f"{path} holds neither hexadecimal nor base64; {remedy}")
    if len(found) != SECRET_SIZE:
        raise Problem(f"{path} holds {len(found)} octets, and a cluster key has {SECRET_SIZE}; {remedy}")
    return found


def decoded_key(text: bytes) -> bytes | None:
    """Octets written in hexadecimal or base64; None if it is neither."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        pass
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _endpoint(text: str) -> str:
    example = 'for example: etcd = ["https://192.0.2.20:2379"]'
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise Problem(f'"{text}" is not an address; {example}') from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Problem(f'"{text}" is not an address that begins with http:// or https://; {example}')
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Problem(f"{parts.scheme}://{parts.hostname} is all that may be there, with a port; {example}")
    if not port:
        raise Problem(f'"{text}" has no port; {example}')
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _file(text: str | None, directory: Path, tls: bool, *, private: bool = False) -> Path | None:
    if text is None:
        return None
    path = directory / text
    content = read_private(path) if private else read_public(path)
    if b"-----BEGIN " not in content:
        raise Problem(f"{path} is not PEM; name a PEM file")
    if not tls:
        raise Problem(
            "means nothing without an endpoint that begins with https://; remove it, or correct etcd"
        )
    return path


def _check_ca(section: ClusterSection, tls: bool) -> None:
    if tls and section.etcd_ca is None:
        raise Problem('is missing; https needs it, for example: etcd_ca = "etcd-ca.pem"')


def _check_pair(one: str | None, other: str | None, name: str) -> None:
    if one is not None and other is None:
        raise Problem(
            f"is missing; a certificate and its key go together, for example: {name} = "
            f'"etcd.{"key" if name == "etcd_key" else "pem"}"'
        )


def _password(section: ClusterSection, directory: Path) -> str | None:
    if section.etcd_password_file is None:
        if section.etcd_user is not None:
            raise Problem('is missing; etcd_user needs it, for example: etcd_password_file = "etcd.password"')
        return None
    path = directory / section.etcd_password_file
    try:
        return read_private(path).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Problem(f"{path} is not UTF-8; correct it") from None


def _check_user(section: ClusterSection) -> None:
    if section.etcd_password_file is not None and section.etcd_user is None:
        raise Problem('is missing; a password is for a user, for example: etcd_user = "deadpeer"')


def _check_lease(lease_s: float) -> None:
    if lease_s != int(lease_s):
        raise Problem(f"{lease_s:g} s is not a whole number of seconds, as etcd wants it; for example: 5s")


def _check_margin(lease_s: float, margin: Margin) -> None:
    # Keepalives go out at each fifth of a lease; one that is lost or late must not fence us.
    ttl_s = ttl_of(int(lease_s))
    if margin.usable_s(ttl_s) < ttl_s / 2:
        raise Problem(
            f"{margin.slack_s:g} s and drift {margin.drift:g} leave {margin.usable_s(ttl_s):g} s of the"
            f" {ttl_s} s that etcd is asked for with a lease of {lease_s:g} s, and half of them is needed;"
            " lower these or raise lease, for example: lease = 5"
        )


def _forward(section: ClusterSection) -> Address | None:
    if not section.forward:
        return None
    text = section.forward_listen
    if text is None:
        raise Problem(
            'is missing; forward needs it, for example: forward_listen = "192.0.2.10:4501"; or write'
            " forward = false"
        )
    return _member_address(text, "forward_listen")


def _advertise(section: ClusterSection) -> Address | None:
    text = section.forward_advertise
    return None if text is None or not section.forward else _member_address(text, "forward_advertise")


def _member_address(text: str, key: str) -> Address:
    example = f'for example: {key} = "192.0.2.10:4501"'
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Problem(f'"{text}" has no port, {example}')
    try:
        address = parse_host(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise Problem(f"{error}; {example}") from None
    if address.is_unspecified or address.is_multicast:
        raise Problem(f"{host} is told to the other members, who can't send there; name one of our addresses")
    return Address(str(address), int(port))
