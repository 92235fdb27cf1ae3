"""How times, addresses and traffic selectors are written in a configuration. Pure; raises ValueError."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from deadpeer.plane.routes import networks
from deadpeer.wire import OPAQUE_PORTS, TrafficSelector

Network = IPv4Network | IPv6Network
Host = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132}
_ANY_PORTS = (0, 65535)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_SELECTOR = re.compile(r"([^\[\]]+?)\s*(?:\[([^\[\]]*)\])?", re.ASCII)


def parse_time(value: object) -> float:
    """Seconds: a number, or text such as "500ms", "30s", "5m", "1h", "1d"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be a time, not {toml_type(value)}")
    if isinstance(value, str):
        match = _TIME.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a time; units are {', '.join(UNITS)}")
        return float(match[1]) * UNITS[match[2] or "s"]
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is not a time: it must be zero or more")
    return float(value)


def parse_host(text: str) -> Host:
    """One IP address, without a zone."""
    try:
        host = ip_address(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address; host names are not looked up") from None
    if isinstance(host, IPv6Address) and host.scope_id is not None:
        raise ValueError(f"{text!r} has a zone; link-local addresses are not supported")
    return host


def parse_interface(text: str) -> Interface:
    """An address of a device with its prefix, for example 10.0.0.1/24."""
    try:
        return ip_interface(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an address with a prefix; write for example 10.0.0.1/24") from None


def parse_networks(entries: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks of one end point; empty is any. "%any", "%any4", "%any6" as in swanctl.conf."""
    words = [entry.strip() for entry in entries]
    if set(words) <= {"%any", "%any4", "%any6"} and ("%any" in words or {"%any4", "%any6"} <= set(words)):
        return ()
    return tuple(net for word in words for net in _networks(word))


def parse_selector(text: str) -> TrafficSelector | None:
    """One traffic selector; None is "dynamic", the outer address of the IKE SA itself.

    An address, a network or a range "a-b", then perhaps [protocol], [protocol/port], [protocol/port-port];
    a port may be "any" or "opaque".
    """
    match = _SELECTOR.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a traffic selector; write for example 10.0.0.0/24[tcp/443]")
    where, what = match[1].strip(), match[2]
    if where == "dynamic":
        if what is not None:
            raise ValueError(f"{text!r}: dynamic takes no protocol or port here; write the address instead")
        return None
    start, end = _range(where)
    protocol, ports = (0, _ANY_PORTS) if what is None else _protocol_and_ports(what, text)
    if (protocol == PROTOCOLS["icmp"] and start.version == 6) or (
        protocol == PROTOCOLS["icmpv6"] and start.version == 4
    ):
        raise ValueError(f"{text!r}: icmp goes with IPv4 addresses and icmpv6 with IPv6 addresses")
    return TrafficSelector(protocol, ports[0], ports[1], start, end)


def show_selector(selector: TrafficSelector | None) -> str:
    """The selector as `parse_selector` reads it."""
    if selector is None:
        return "dynamic"
    spans = networks((selector,))
    where = str(spans[0]) if len(spans) == 1 else f"{selector.start}-{selector.end}"
    low, high = selector.start_port, selector.end_port
    if selector.ip_protocol == 0 and (low, high) == _ANY_PORTS:
        return where
    names = {number: name for name, number in PROTOCOLS.items()}
    protocol = names.get(selector.ip_protocol, str(selector.ip_protocol))
    if (low, high) == _ANY_PORTS:
        return f"{where}[{protocol}]"
    if (low, high) == OPAQUE_PORTS:
        return f"{where}[{protocol}/opaque]"
    return f"{where}[{protocol}/{low}]" if low == high else f"{where}[{protocol}/{low}-{high}]"


def toml_type(value: object) -> str:
    """What a person calls a value of a TOML file."""
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "a string"),
        (list, "an array"),
        (dict, "a table"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "a date or time")


def _networks(word: str) -> list[Network]:
    everything: dict[str, list[Network]] = {
        "%any": [IPv4Network("0.0.0.0/0"), IPv6Network("::/0")],
        "%any4": [IPv4Network("0.0.0.0/0")],
        "%any6": [IPv6Network("::/0")],
    }
    if word in everything:
        return everything[word]
    if "/" in word:
        return [_network(word)]
    host = parse_host(word)
    return [ip_network(host)]


def _network(word: str) -> Network:
    try:
        return ip_network(word)
    except ValueError:
        pass
    try:
        meant = ip_network(word, strict=False)
    except ValueError:
        raise ValueError(f"{word!r} is not an IP network; write for example 10.0.0.0/24") from None
    raise ValueError(f"{word!r} has bits set behind its prefix; write {meant}")


def _range(where: str) -> tuple[Host, Host]:
    if "/" in where:
        net = _network(where)
        return net[0], net[-1]
    first, dash, last = where.partition("-")
    start = parse_host(first)
    end = parse_host(last) if dash else start
    if start.version != end.version:
        raise ValueError(f"{where!r} mixes an IPv4 and an IPv6 address")
    if int(start) > int(end):
        raise ValueError(f"{where!r} ends before it starts; write {end}-{start}")
    return start, end


def _protocol_and_ports(what: str, text: str) -> tuple[int, tuple[int, int]]:
    word, slash, ports = (part.strip() for part in what.partition("/"))
    protocol = PROTOCOLS.get(word, int(word) if re.fullmatch(r"\d{1,3}", word, re.ASCII) else -1)
    if word in ("", "any"):
        protocol = 0
    if not 0 <= protocol <= 255:
        raise ValueError(f"{text!r}: unknown protocol {word!r}; write a number or {', '.join(PROTOCOLS)}")
    if not slash or ports == "any":
        return protocol, _ANY_PORTS
    if ports == "opaque":
        return protocol, OPAQUE_PORTS
    match = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", ports, re.ASCII)
    low = int(match[1]) if match else -1
    high = int(match[2] or match[1]) if match else -1
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"{text!r}: {ports!r} is not a port or a range of ports (0 to 65535)")
    return protocol, (low, high)
