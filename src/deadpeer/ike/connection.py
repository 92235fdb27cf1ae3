"""What is configured: connections, their children, the endpoint's limits. Frozen, already validated.

Names are those of strongSwan's swanctl.conf where the meaning is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, TypeVar

from deadpeer.crypto import Credential, Identity, ProposalTemplate, TrustStore
from deadpeer.wire import TrafficSelector

AuthKind = Literal["psk", "pubkey"]
StartAction = Literal["none", "start", "trap"]
DpdAction = Literal["clear", "trap", "restart"]
CloseAction = Literal["none", "trap", "start"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LocalAuth:
    """How we prove who we are. `secret` for psk, `credential` for pubkey."""

    auth: AuthKind
    identity: Identity
    secret: bytes = field(default=b"", repr=False)
    credential: Credential | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RemoteAuth:
    """What the peer must prove. `identity` None accepts any identity that the credentials allow."""

    auth: AuthKind
    identity: Identity | None
    secret: bytes = field(default=b"", repr=False)
    trust: TrustStore | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When an SA is replaced, seconds. 0 is never.

    Rekeying begins at `rekey_s` less a random part of up to `jitter_s`; at `life_s` the SA is deleted.
    `packets` and `octets` are further soft limits of a child SA.
    """

    rekey_s: float
    life_s: float
    jitter_s: float
    packets: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """A child SA to be: `local_ts` behind us, `remote_ts` behind the peer.

    A selector `None` in `local_ts`/`remote_ts` stands for the IKE SA's own outer address ("dynamic").
    """

    name: str
    local_ts: tuple[TrafficSelector | None, ...]
    remote_ts: tuple[TrafficSelector | None, ...]
    esp_proposals: tuple[ProposalTemplate, ...]
    lifetime: Lifetime
    start_action: StartAction = "none"
    dpd_action: DpdAction = "trap"
    close_action: CloseAction = "none"
    replay_window: int = 64


@dataclass(frozen=True, slots=True)
class Connection:
    """One peer, or one kind of peer.

    `local_addrs`/`remote_addrs`: addresses or networks; empty is %any. The first single address of
    `remote_addrs` is the one we initiate to, at `remote_port` (and `remote_port_nat_t` after the move
    for NAT traversal).
    """

    name: str
    local_addrs: tuple[IPv4Network | IPv6Network, ...]
    remote_addrs: tuple[IPv4Network | IPv6Network, ...]
    remote_port: int
    remote_port_nat_t: int
    proposals: tuple[ProposalTemplate, ...]
    local: LocalAuth
    remote: RemoteAuth
    children: tuple[ChildConfig, ...]
    lifetime: Lifetime
    dpd_delay_s: float = 30.0
    """An IKE SA that was silent for so long is probed; 0: only silence while we send starts a probe."""
    dpd_timeout_s: float = 60.0
    """Retransmissions of a request go on for so long before the peer is given up."""
    dpd_floor_s: float = 60.0
    """Never condemn for silence before so long without a protected word from the peer."""
    silence_s: float = 1.5
    """Traffic out and nothing in for so long starts a liveness check (scaled down with the RTT); 0: off."""
    encap: bool = True
    """Force UDP encapsulation, also where no NAT is (the userspace plane speaks nothing else)."""
    fragmentation: bool = True
    fragment_size: int = 1280
    """Largest IP packet, in octets, that carries an IKE message before it is fragmented."""
    initial_contact: bool = False
    send_certreq: bool = True
    keyingtries: int = 0
    """How many rounds of IKE_SA_INIT a start, trap or recovery makes; 0 is for ever. `up` makes one."""
    extensions: tuple[object, ...] = ()
    """What is configured here for extensions, one value of each one's own type. The core never looks."""

    @property
    def remote_host(self) -> str | None:
        """The single address that we can initiate to, or None (%any, or networks only)."""
        for net in self.remote_addrs:
            if net.prefixlen == net.max_prefixlen:
                return str(net.network_address)
        return None

    def extension(self, kind: type[T]) -> T | None:
        """What is configured here for the extension whose options are of this type."""
        return next((value for value in self.extensions if isinstance(value, kind)), None)

    def child(self, name: str) -> ChildConfig | None:
        """The child of that name, if there is one."""
        return next((c for c in self.children if c.name == name), None)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Limits and ports of the endpoint as a whole."""

    local_hosts: tuple[str, ...] = ()
    """Our addresses, for connections that name none: the first of the peer's family is taken."""
    port: int = 500
    port_nat_t: int = 4500
    cookie_threshold: int = 30
    """Half-open SAs above which IKE_SA_INIT is answered with a cookie; 0: always."""
    half_open_limit: int = 1000
    """Half-open SAs above which IKE_SA_INIT is dropped."""
    half_open_per_source: int = 5
    """Half-open SAs of one source address above which its IKE_SA_INIT is answered with a cookie."""
    half_open_per_proven_source: int = 20
    """Half-open SAs of one source address that returned a cookie above which its IKE_SA_INIT is dropped."""
    half_open_timeout_s: float = 30.0
    max_ike_sas: int = 100_000
    nat_keepalive_s: float = 20.0
    child_linger_s: float = 5.0
    """How long the inbound half of a replaced child SA goes on, for packets under way."""
    init_timeout_s: float = 60.0
    """How long one round of IKE_SA_INIT and IKE_AUTH goes on."""
    retry_cap_s: float = 1.0
    """Largest interval between retransmissions of IKE_SA_INIT while recovering."""
    keylog: bool = False
