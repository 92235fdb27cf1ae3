"""Narrowing of traffic selectors (RFC 7296 section 2.9): pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import summarize_address_range

from deadpeer.values import ip_of
from deadpeer.wire import TrafficSelector

MAX_SELECTORS = 255


def resolve(configured: Iterable[TrafficSelector | None], host: str) -> tuple[TrafficSelector, ...]:
    """Put the outer address `host` where the configuration says dynamic (None)."""
    address = ip_of(host)
    return tuple(
        TrafficSelector(0, 0, 65535, address, address) if selector is None else selector
        for selector in configured
    )


def intersect(a: TrafficSelector, b: TrafficSelector) -> TrafficSelector | None:
    """The largest selector within both, or None if nothing is in both."""
    if a.start.version != b.start.version:
        return None
    if a.ip_protocol and b.ip_protocol and a.ip_protocol != b.ip_protocol:
        return None
    ports = _ports(a, b)
    if ports is None:
        return None
    start = a.start if int(a.start) >= int(b.start) else b.start
    end = a.end if int(a.end) <= int(b.end) else b.end
    if int(start) > int(end):
        return None
    return TrafficSelector(a.ip_protocol or b.ip_protocol, ports[0], ports[1], start, end)


def narrow(
    offered: Iterable[TrafficSelector], configured: Iterable[TrafficSelector]
) -> tuple[TrafficSelector, ...]:
    """All non-empty intersections, without those that lie within another one; () if nothing is common."""
    configured = tuple(configured)
    found: list[TrafficSelector] = []
    for theirs in offered:
        for ours in configured:
            both = intersect(theirs, ours)
            if both is not None and both not in found:
                found.append(both)
    kept = [s for s in found if not any(o != s and covers(o, s) for o in found)]
    return tuple(kept[:MAX_SELECTORS])


def covers(outer: TrafficSelector, inner: TrafficSelector) -> bool:
    """Whether everything that `inner` matches is matched by `outer` too."""
    return intersect(outer, inner) == inner


def within(narrowed: Iterable[TrafficSelector], offered: Iterable[TrafficSelector]) -> bool:
    """Whether each selector of a response lies within one that we offered, and there is one at all."""
    offered = tuple(offered)
    narrowed = tuple(narrowed)
    return bool(narrowed) and all(any(covers(o, n) for o in offered) for n in narrowed)


def text(selector: TrafficSelector) -> str:
    """Readable form: "10.0.0.0/24", "10.0.0.1-10.0.0.9", with "[proto/ports]" where limited."""
    if selector.start == selector.end:
        base = str(selector.start)
    else:
        nets = list(summarize_address_range(selector.start, selector.end))
        base = str(nets[0]) if len(nets) == 1 else f"{selector.start}-{selector.end}"
    all_ports = (selector.start_port, selector.end_port) == (0, 65535)
    if selector.ip_protocol == 0 and all_ports:
        return base
    if all_ports:
        return f"{base}[{selector.ip_protocol}]"
    if _opaque(selector):
        return f"{base}[{selector.ip_protocol}/opaque]"
    ports = (
        str(selector.start_port)
        if selector.start_port == selector.end_port
        else f"{selector.start_port}-{selector.end_port}"
    )
    return f"{base}[{selector.ip_protocol}/{ports}]"


def _opaque(selector: TrafficSelector) -> bool:
    return (selector.start_port, selector.end_port) == (65535, 0)


def _ports(a: TrafficSelector, b: TrafficSelector) -> tuple[int, int] | None:
    if _opaque(a) or _opaque(b):
        # OPAQUE is its own value; only "any" covers it (RFC 7296 section 3.13.1).
        if _opaque(a) and _opaque(b):
            return (65535, 0)
        other = b if _opaque(a) else a
        return (65535, 0) if (other.start_port, other.end_port) == (0, 65535) else None
    start, end = max(a.start_port, b.start_port), min(a.end_port, b.end_port)
    return (start, end) if start <= end else None
