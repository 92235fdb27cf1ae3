"""From the file's shape to the frozen configuration: judges what needs several keys, or another file.

Every problem is noted under its key and the judging goes on, so that the first one can be reported with
the number of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from deadpeer.crash.options import (
    Method,
    PolicyOptions,
    QcdOptions,
    RedirectOptions,
    ResumptionOptions,
    SirOptions,
)
from deadpeer.crypto import (
    DEFAULT_ESP_PROPOSALS,
    DEFAULT_IKE_PROPOSALS,
    ProposalTemplate,
    parse_proposal,
)
from deadpeer.ike.connection import ChildConfig, Connection, DpdAction, Lifetime
from deadpeer.wire import Protocol, TrafficSelector

from .credentials import resolve_auth
from .errors import Problem, Problems
from .notation import (
    Host,
    Interface,
    Network,
    parse_host,
    parse_interface,
    parse_networks,
    parse_selector,
    show_selector,
)
from .schema import ChildSection, ConnectionSection, GatewaySection

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
_MAX_UNIX_PATH = 107
_MAX_SELECTORS = 255
_DEFAULTS: Mapping[Protocol, Sequence[ProposalTemplate]] = {
    Protocol.IKE: DEFAULT_IKE_PROPOSALS,
    Protocol.ESP: DEFAULT_ESP_PROPOSALS,
}


def resolve_listen(gateway: GatewaySection, problems: Problems) -> tuple[Host, ...]:
    """The addresses to open sockets on, each once; empty is every address of the host."""
    return problems.get("gateway.listen", lambda: _listen(gateway.listen)) or ()


def resolve_interfaces(gateway: GatewaySection, problems: Problems) -> tuple[Interface, ...]:
    """The addresses of the TUN device."""
    return (
        problems.get("gateway.tun_addresses", lambda: tuple(map(parse_interface, gateway.tun_addresses)))
        or ()
    )


def check_gateway(gateway: GatewaySection, directory: Path, problems: Problems) -> None:
    """Judge the keys of [gateway] that depend on each other."""
    problems.check(
        "gateway.port_nat_t", lambda: _check_ports(gateway.port, gateway.port_nat_t, "gateway.port")
    )
    problems.check("gateway.control", lambda: check_unix_path(directory / gateway.control))
    if gateway.plane == "unix":
        for key, text in (("unix_local", gateway.unix_local), ("unix_peer", gateway.unix_peer)):
            problems.check(f"gateway.{key}", partial(_check_end, key, text, directory))
    else:
        problems.check("gateway.tun", lambda: _check_device(gateway.tun))


def check_local_addresses(connections: Sequence[Connection], hosts: Sequence[Host], file: Path) -> None:
    """Raise ConfigError for a connection whose `local_addrs` are none of the addresses that there are."""
    problems = Problems(file)
    for connection in connections:
        key = f"connections.{connection.name}.local_addrs"
        problems.check(key, partial(_check_local, connection.local_addrs, hosts, "our addresses"))
    problems.raise_first()


def check_unix_path(path: Path) -> None:
    """Raise Problem if the path is too long for a UNIX socket (sun_path)."""
    length = len(str(path).encode())
    if length > _MAX_UNIX_PATH:
        raise Problem(
            f"{path} has {length} octets, and a UNIX socket's path {_MAX_UNIX_PATH} at most; shorten it"
        )


def resolve_connection(
    name: str, section: ConnectionSection, directory: Path, listen: Sequence[Host], problems: Problems
) -> Connection | None:
    """The frozen connection, or None if there was any problem, which is noted in `problems`."""
    key = f"connections.{name}"
    before = len(problems)
    problems.check(key, lambda: _check_name(name))
    local_addrs = problems.get(f"{key}.local_addrs", lambda: parse_networks(section.local_addrs))
    remote_addrs = problems.get(f"{key}.remote_addrs", lambda: parse_networks(section.remote_addrs))
    proposals = problems.get(f"{key}.proposals", lambda: _proposals(section.proposals, Protocol.IKE))
    lifetime = problems.get(f"{key}.rand_time", lambda: _ike_lifetime(section))
    problems.check(f"{key}.dpd_timeout", lambda: _check_dpd(section))
    problems.check(f"{key}.encap", lambda: _check_encap(section))
    ports = partial(_check_ports, section.remote_port, section.remote_port_nat_t, "remote_port")
    problems.check(f"{key}.remote_port_nat_t", ports)
    local, remote = resolve_auth(section.local, section.remote, key, directory, problems)
    children = [
        _child(n, c, f"{key}.children.{n}", problems, default_dpd=_default_dpd(remote_addrs or ()))
        for n, c in section.children.items()
    ]
    whole = [child for child in children if child is not None]
    _check_distinct(whole, f"{key}.children", problems)
    if local_addrs is not None and remote_addrs is not None:
        problems.check(f"{key}.local_addrs", lambda: _check_local(local_addrs, listen, "gateway.listen"))
        problems.check(f"{key}.remote_addrs", lambda: _check_families(local_addrs, remote_addrs, listen))
        for child in whole:
            where = f"{key}.children.{child.name}.start_action"
            problems.check(where, partial(_check_reachable, child, remote_addrs))
    if len(problems) > before or local_addrs is None or remote_addrs is None:
        return None
    if proposals is None or lifetime is None or local is None or remote is None:
        return None
    return Connection(
        name=name,
        local_addrs=local_addrs,
        remote_addrs=remote_addrs,
        remote_port=section.remote_port,
        remote_port_nat_t=section.remote_port_nat_t,
        proposals=proposals,
        local=local,
        remote=remote,
        children=tuple(whole),
        lifetime=lifetime,
        dpd_delay_s=section.dpd_delay,
        dpd_timeout_s=section.dpd_timeout,
        dpd_floor_s=section.dpd_floor,
        silence_s=section.silence,
        encap=section.encap,
        fragmentation=section.fragmentation,
        fragment_size=section.fragment_size,
        initial_contact=section.initial_contact,
        send_certreq=section.send_certreq,
        keyingtries=section.keyingtries,
        extensions=(
            QcdOptions(section.qcd, section.qcd_method),
            SirOptions(section.sir),
            PolicyOptions(tuple(dict.fromkeys(Method(name) for name in section.crash_methods))),
            RedirectOptions(section.redirect),
            ResumptionOptions(section.resumption, section.ticket_lifetime, section.resumption_limit),
        ),
    )


def _listen(texts: Sequence[str]) -> tuple[Host, ...]:
    hosts: list[Host] = []
    for text in texts:
        host = parse_host(text)
        if host.is_unspecified or host.is_multicast:
            raise Problem(f"{text} can't be listened on; name addresses, or leave the key out for all")
        if host in hosts:
            raise Problem(f"{text} is there twice; remove one")
        hosts.append(host)
    return tuple(hosts)


def _check_ports(port: int, port_nat_t: int, other: str) -> None:
    if port == port_nat_t:
        raise Problem(f"{port_nat_t} is {other} too; IKE needs two ports, for example 500 and 4500")


def _check_end(key: str, text: str | None, directory: Path) -> None:
    if text is None:
        raise Problem(f'is missing; plane = "unix" needs it, for example: {key} = "{key}.sock"')
    check_unix_path(directory / text)


def _check_device(name: str) -> None:
    if re.fullmatch(r"[^/\s:%]+", name) is None or name in (".", ".."):
        raise Problem(f'"{name}" can\'t be the name of a device, for example: tun = "deadpeer0"')


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise Problem(
            "a name has 1 to 64 letters, digits, - and _, and begins with a letter or digit; rename it"
        )


def _proposals(texts: Sequence[str], protocol: Protocol) -> tuple[ProposalTemplate, ...]:
    if not any(texts):
        raise Problem('is empty; write "default", or name the proposals')
    chosen: list[ProposalTemplate] = []
    for text in texts:
        chosen += _DEFAULTS[protocol] if text == "default" else [parse_proposal(text, protocol)]
    return tuple(dict.fromkeys(chosen))


def _ike_lifetime(section: ConnectionSection) -> Lifetime:
    rekey = section.rekey_time
    over = section.over_time if section.over_time is not None else rekey / 10
    rand = section.rand_time if section.rand_time is not None else rekey / 10
    if rekey and rand >= rekey:
        raise Problem(f"{rand:g} s is not less than rekey_time ({rekey:g} s); lower it")
    return Lifetime(rekey_s=rekey, life_s=rekey + over if rekey else 0.0, jitter_s=rand if rekey else 0.0)


def _child_lifetime(section: ChildSection) -> Lifetime:
    rekey = section.rekey_time
    life = section.life_time if section.life_time is not None else rekey * 1.1
    rand = section.rand_time if section.rand_time is not None else rekey / 10
    if rekey and life and life <= rekey:
        raise Problem(f"life_time ({life:g} s) is not more than rekey_time ({rekey:g} s); raise life_time")
    if rekey and rand >= rekey:
        raise Problem(f"rand_time ({rand:g} s) is not less than rekey_time ({rekey:g} s); lower rand_time")
    return Lifetime(rekey, life, rand if rekey else 0.0, section.rekey_packets, section.rekey_bytes)


def _check_dpd(section: ConnectionSection) -> None:
    if section.dpd_timeout < section.dpd_floor:
        raise Problem(
            f"{section.dpd_timeout:g} s is less than dpd_floor ({section.dpd_floor:g} s), before which no"
            " peer is given up; raise dpd_timeout or lower dpd_floor"
        )


def _check_encap(section: ConnectionSection) -> None:
    if not section.encap:
        raise Problem("false is not supported yet: the userspace plane speaks ESP in UDP only; remove it")


def _default_dpd(remote: Sequence[Network]) -> DpdAction:
    """A peer that may be anywhere is not called back where it was last, unless somebody asks for it."""
    return "trap" if _reachable(remote) else "clear"


def _child(
    name: str, section: ChildSection, key: str, problems: Problems, *, default_dpd: DpdAction
) -> ChildConfig | None:
    problems.check(key, lambda: _check_name(name))
    local_ts = problems.get(f"{key}.local_ts", lambda: _selectors(section.local_ts))
    remote_ts = problems.get(f"{key}.remote_ts", lambda: _selectors(section.remote_ts))
    proposals = problems.get(f"{key}.esp_proposals", lambda: _proposals(section.esp_proposals, Protocol.ESP))
    lifetime = problems.get(f"{key}.rekey_time", lambda: _child_lifetime(section))
    if not (local_ts and remote_ts and proposals and lifetime):
        return None
    problems.check(f"{key}.remote_ts", lambda: _check_selector_families(local_ts, remote_ts))
    return ChildConfig(
        name=name,
        local_ts=local_ts,
        remote_ts=remote_ts,
        esp_proposals=proposals,
        lifetime=lifetime,
        start_action=section.start_action,
        dpd_action=section.dpd_action or default_dpd,
        close_action=section.close_action,
        replay_window=section.replay_window,
    )


def _selectors(texts: Sequence[str]) -> tuple[TrafficSelector | None, ...]:
    if not any(texts):
        raise Problem('is empty; name a network, for example "10.0.0.0/24", or "dynamic"')
    if len(texts) > _MAX_SELECTORS:
        raise Problem(f"has {len(texts)} selectors, and {_MAX_SELECTORS} is the most; join networks")
    return tuple(dict.fromkeys(parse_selector(text) for text in texts))


def _versions(selectors: Sequence[TrafficSelector | None]) -> set[int]:
    return {4, 6} if None in selectors else {s.start.version for s in selectors if s is not None}


def _check_selector_families(
    local: Sequence[TrafficSelector | None], remote: Sequence[TrafficSelector | None]
) -> None:
    if not _versions(local) & _versions(remote):
        raise Problem(
            "has no address of the IP version of local_ts, so no packet can match; correct one of them"
        )


def _check_distinct(children: Sequence[ChildConfig], key: str, problems: Problems) -> None:
    seen: dict[object, str] = {}
    for child in children:
        selectors = (frozenset(child.local_ts), frozenset(child.remote_ts))
        first = seen.setdefault(selectors, child.name)

        def check(first: str = first, child: ChildConfig = child) -> None:
            if first != child.name:
                shown = " to ".join(
                    ", ".join(show_selector(s) for s in side) for side in (child.local_ts, child.remote_ts)
                )
                raise Problem(f"has the traffic selectors of child {first} ({shown}); remove one of them")

        problems.check(f"{key}.{child.name}", check)


def _check_local(local: Sequence[Network], listen: Sequence[Host], what: str) -> None:
    if not local or not listen:
        return
    if not any(host in net for net in local for host in listen):
        raise Problem(f"none of these is one of {what} ({', '.join(map(str, listen))}); add one there")


def _check_families(local: Sequence[Network], remote: Sequence[Network], listen: Sequence[Host]) -> None:
    if not remote:
        return
    ours = {net.version for net in local} or {4, 6}
    if listen:
        ours &= {host.version for host in listen}
    if not ours & {net.version for net in remote}:
        raise Problem("has no address of an IP version of local_addrs and gateway.listen; correct one")


def _check_reachable(child: ChildConfig, remote: Sequence[Network]) -> None:
    if child.start_action != "none" and not _reachable(remote):
        raise Problem(
            f'"{child.start_action}" needs a single address in remote_addrs; name one, or write "none"'
        )


def _reachable(remote: Sequence[Network]) -> bool:
    """Whether we can initiate: there is a single address among them."""
    return any(net.prefixlen == net.max_prefixlen for net in remote)
