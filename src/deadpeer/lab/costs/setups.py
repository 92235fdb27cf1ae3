"""The connections of a measurement: what is on, what is off, and who is who."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from deadpeer.crash.options import (
    CrashOptions,
    Method,
    PolicyOptions,
    QcdOptions,
    ResumptionOptions,
    Roles,
    SirOptions,
)
from deadpeer.crypto import Identity, parse_proposal
from deadpeer.ike.connection import ChildConfig, Connection, Lifetime
from deadpeer.lab.costs.credentials import auth_of
from deadpeer.lab.costs.meter import Meter
from deadpeer.lab.costs.model import Authentication, Way
from deadpeer.lab.costs.rig import OUTER, SIDES, Rig
from deadpeer.lab.gateway_config import ESP_PROPOSAL, IKE_PROPOSAL
from deadpeer.lab.options import Side
from deadpeer.wire import Protocol, TrafficSelector

CONNECTION = "costs"
BEHIND_BOB = "10.20.0.1"
BEHIND_ALICE = IPv4Network("10.10.0.0/16")
ENCRYPTION = f"{IKE_PROPOSAL}, ESP {ESP_PROPOSAL}"
"""The suites of all measurements: those of the lab."""

_FOREVER = Lifetime(rekey_s=0, life_s=0, jitter_s=0)
_IKE = (parse_proposal(IKE_PROPOSAL, Protocol.IKE),)
_ESP = (parse_proposal(ESP_PROPOSAL, Protocol.ESP),)


@dataclass(frozen=True, slots=True)
class Setup:
    """What one side has switched on."""

    methods: tuple[Method, ...] = (Method.LIVENESS,)
    qcd: Roles = "off"
    sir: bool = False
    resumption: bool = False
    spi_map: bool = False
    announce: bool = False

    def extensions(self) -> tuple[object, ...]:
        """As a connection has it."""
        return (
            QcdOptions(self.qcd),
            SirOptions("auto" if self.sir else "off"),
            PolicyOptions(self.methods),
            ResumptionOptions(self.resumption),
        )

    def options(self) -> CrashOptions:
        """As the gateway has it."""
        return CrashOptions(spi_map=self.spi_map, announce=self.announce)


def setup_of(way: Way, *, resumed: bool) -> Setup:
    """Both sides, for one way to find out and no other, as in a run of the lab."""
    method = {"qcd-map": Method.QCD, "qcd-announced": Method.QCD}.get(way) or Method(way)
    return Setup(
        methods=tuple(dict.fromkeys((method, Method.LIVENESS))),
        qcd="both" if method is Method.QCD else "off",
        sir=method is Method.SIR,
        resumption=resumed,
        spi_map=way in ("qcd-map", "qcd-announced"),
        announce=way == "qcd-announced",
    )


def rig_of(
    setups: dict[Side, Setup], authentication: Authentication, *, meter: Meter | None = None, sas: int = 1
) -> Rig:
    """Two gateways. Alice has `sas` connections, each to be brought up by itself; Bob has one for all."""
    hers = [_connection("alice", setups["alice"], authentication, number) for number in range(sas)]
    his = _connection("bob", setups["bob"], authentication, None if sas > 1 else 0)
    options = {side: setups[side].options() for side in SIDES}
    return Rig({"alice": hers, "bob": [his]}, options, meter=meter)


def name_of(number: int) -> str:
    """The name of one of Alice's connections."""
    return f"{CONNECTION}-{number}"


def behind_alice(number: int) -> str:
    """The host at Alice's end of the child SA of that connection."""
    return str(BEHIND_ALICE[number + 1])


def _connection(side: Side, setup: Setup, authentication: Authentication, number: int | None) -> Connection:
    """`number` None: Bob's, for all of Alice's connections."""
    other: Side = "bob" if side == "alice" else "alice"
    local, remote = auth_of(side, authentication)
    inner = _network(BEHIND_ALICE) if number is None else _host(behind_alice(number))
    if side == "alice" and number:
        local = replace(local, identity=Identity.parse(f"alice-{number}.costs.example"))
    if number is None:
        remote = replace(remote, identity=None)
    mine, theirs = (inner, _host(BEHIND_BOB)) if side == "alice" else (_host(BEHIND_BOB), inner)
    return Connection(
        name=name_of(number or 0),
        local_addrs=(ip_network(OUTER[side]),),
        remote_addrs=(ip_network(OUTER[other]),),
        remote_port=500,
        remote_port_nat_t=4500,
        proposals=_IKE,
        local=local,
        remote=remote,
        children=(_child((mine,), (theirs,)),),
        lifetime=_FOREVER,
        extensions=setup.extensions(),
    )


def _child(local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector]) -> ChildConfig:
    return ChildConfig(
        name="inner",
        local_ts=tuple(local),
        remote_ts=tuple(remote),
        esp_proposals=_ESP,
        lifetime=_FOREVER,
        dpd_action="restart",
    )


def _host(host: str) -> TrafficSelector:
    address = ip_address(host)
    return TrafficSelector(0, 0, 65535, address, address)


def _network(network: IPv4Network) -> TrafficSelector:
    first, last = IPv4Address(network.network_address), IPv4Address(network.broadcast_address)
    return TrafficSelector(0, 0, 65535, first, last)
