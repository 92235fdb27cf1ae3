"""What recoveries and roles cost, as values. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Way = Literal["qcd", "qcd-map", "qcd-announced", "sir", "reconnect", "liveness"]
Authentication = Literal["psk", "ecdsa-p256", "rsa-3072"]
Role = Literal["token-maker", "token-taker", "sir", "ticket-client", "ticket-gateway", "spi-map"]
End = Literal["initiator", "responder"]
Per = Literal["gateway", "child SA", "ticket used"]

WAYS: tuple[Way, ...] = ("qcd", "qcd-map", "qcd-announced", "sir", "reconnect", "liveness")
AUTHENTICATIONS: tuple[Authentication, ...] = ("psk", "ecdsa-p256", "rsa-3072")

WAY_TITLES: dict[Way, str] = {
    "qcd": "QCD",
    "qcd-map": "QCD, SPI map",
    "qcd-announced": "QCD, announced",
    "sir": "SIR",
    "reconnect": "reconnect",
    "liveness": "liveness",
}
AUTHENTICATION_TITLES: dict[Authentication, str] = {
    "psk": "shared key",
    "ecdsa-p256": "ECDSA P-256",
    "rsa-3072": "RSA-3072",
}
ROLE_TITLES: dict[Role, str] = {
    "token-maker": "token maker",
    "token-taker": "token taker",
    "sir": "SIR, both roles",
    "ticket-client": "ticket client",
    "ticket-gateway": "ticket gateway",
    "spi-map": "SPI map",
}


@dataclass(frozen=True, slots=True)
class Operations:
    """How often the primitives ran: counts, the same on every machine.

    `signatures` made with a private key; `verifications` of the peer's signature; `certificates` whose
    issuer's signature was checked; `exchanges`, Diffie-Hellman results; `macs`, HMACs; `seals`, AEAD
    operations in both directions.
    """

    signatures: int = 0
    verifications: int = 0
    certificates: int = 0
    exchanges: int = 0
    macs: int = 0
    seals: int = 0


@dataclass(frozen=True, slots=True)
class Wire:
    """Datagrams and octets of UDP payload, non-ESP markers included."""

    messages: int
    octets: int

    def __sub__(self, other: Wire) -> Wire:
        return Wire(self.messages - other.messages, self.octets - other.octets)


@dataclass(frozen=True, slots=True)
class SideCost:
    """What one recovery costs one side: CPU in microseconds, the median and the quartiles about it.

    `primitives_us` is the part that is spent within `cryptography` (OpenSSL, and the Rust around it).
    `sent` counts IKE messages alone, answers to strangers among them.
    """

    cpu_us: float
    cpu_quartiles_us: tuple[float, float]
    primitives_us: float
    operations: Operations
    sent: Wire

    @property
    def primitives_share(self) -> float:
        """The part of the CPU that is spent in primitives, 0 to 1."""
        return self.primitives_us / self.cpu_us if self.cpu_us else 0.0


@dataclass(frozen=True, slots=True)
class RecoveryCost:
    """One way to find out, with one kind of authentication, by a full exchange or resumed.

    `alice` still held the SAs, `bob` lost them; both count from the moment that he is up again. Times in
    milliseconds are virtual, at a round trip of `rtt_ms` and with processing left out, and begin when he is
    up and the first packet arrives: `detect_ms` ends with the verdict, `recover_ms` with the first inner
    packet that made the round trip after it (with an idle tunnel: when the new child SA was up).
    """

    way: Way
    authentication: Authentication
    resumed: bool
    recoveries: int
    rtt_ms: float
    detect_ms: float
    recover_ms: float
    alice: SideCost
    bob: SideCost

    def to_record(self) -> dict[str, Any]:
        return _record(self) | {
            "alice": _record(self.alice) | {"primitives_share": round(self.alice.primitives_share, 3)},
            "bob": _record(self.bob) | {"primitives_share": round(self.bob.primitives_share, 3)},
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """CPU of a resumed recovery, divided by that of a full one; medians of runs that took turns."""

    way: Way
    authentication: Authentication
    alice: float
    bob: float

    def to_record(self) -> dict[str, Any]:
        return _record(self)


@dataclass(frozen=True, slots=True)
class RoleCost:
    """What a role adds to the costs of an IKE SA with one child SA, for the side that plays it.

    `memory_octets` per SA; `disk_octets` per SA, as records (key and value) in the ledger, and
    `disk_fixed_octets` once, in the state directory, however many SAs there are. The messages are those
    that the role adds to building the SA, and to rekeying it (by its initiator), as this side sends and
    receives them. `setup_cpu_us` is a small difference of two medians; `setup_cpu_error_us` is its
    standard error.
    """

    role: Role
    end: End
    memory_octets: float
    disk_octets: float
    disk_fixed_octets: int
    setup_sent: Wire
    setup_received: Wire
    rekey_sent: Wire
    rekey_received: Wire
    setup_cpu_us: float
    setup_cpu_error_us: float

    def to_record(self) -> dict[str, Any]:
        return _record(self)


@dataclass(frozen=True, slots=True)
class Baseline:
    """An IKE SA with one child SA and no role at all, for one end of it: what the roles add to."""

    end: End
    memory_octets: float
    setup_sent: Wire
    rekey_sent: Wire
    setup_cpu_us: float

    def to_record(self) -> dict[str, Any]:
        return _record(self)


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that survives a crash: the octets of one, and for what there is one."""

    what: str
    octets: float
    per: Per

    def to_record(self) -> dict[str, Any]:
        return _record(self)


@dataclass(frozen=True, slots=True)
class Costs:
    """All that was measured. `machine` says where, `sas` how many SAs the octets are an average of."""

    machine: str
    sas: int
    recoveries: tuple[RecoveryCost, ...]
    ratios: tuple[Ratio, ...]
    baselines: tuple[Baseline, ...]
    roles: tuple[RoleCost, ...]
    kept: tuple[Kept, ...]

    def recovery(self, way: Way, authentication: Authentication, *, resumed: bool) -> RecoveryCost:
        """The costs of one kind of recovery. Raises KeyError if it was not measured."""
        wanted = (way, authentication, resumed)
        for cost in self.recoveries:
            if (cost.way, cost.authentication, cost.resumed) == wanted:
                return cost
        raise KeyError(wanted)

    def ratio(self, way: Way, authentication: Authentication) -> Ratio:
        """Resumed against full. Raises KeyError if it was not measured."""
        for ratio in self.ratios:
            if (ratio.way, ratio.authentication) == (way, authentication):
                return ratio
        raise KeyError((way, authentication))

    def role(self, role: Role, end: End) -> RoleCost:
        """What a role costs one end of the SA. Raises KeyError if it has none there."""
        for cost in self.roles:
            if (cost.role, cost.end) == (role, end):
                return cost
        raise KeyError((role, end))

    def to_record(self) -> dict[str, Any]:
        """All of it as `python -m deadpeer.lab.costs --json` prints it."""
        return {
            "machine": self.machine,
            "sas": self.sas,
            "recoveries": [cost.to_record() for cost in self.recoveries],
            "ratios": [ratio.to_record() for ratio in self.ratios],
            "baselines": [baseline.to_record() for baseline in self.baselines],
            "roles": [role.to_record() for role in self.roles],
            "kept": [kept.to_record() for kept in self.kept],
        }


def _record(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, floats rounded to what they are worth."""
    return {name: _rounded(item) for name, item in asdict(value).items()}


def _rounded(item: Any) -> Any:
    if isinstance(item, float):
        return round(item, 3)
    if isinstance(item, dict):
        return {name: _rounded(inner) for name, inner in item.items()}
    if isinstance(item, tuple | list):
        return [_rounded(inner) for inner in item]
    return item
