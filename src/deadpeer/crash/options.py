"""What is configured: QCD on a connection, the limits of answers to strangers and of what news can cause."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from deadpeer.ike.connection import Connection

Roles = Literal["both", "maker", "taker", "off"]
TokenMethod = Literal["spi", "spi-address"]
SirRole = Literal["auto", "force", "off"]


class Method(Enum):
    """Ways to find out that a peer lost its SAs, strongest first."""

    QCD = "qcd"
    SIR = "sir"
    RECONNECT = "reconnect"
    LIVENESS = "liveness"


@dataclass(frozen=True, slots=True)
class QcdOptions:
    """QCD (RFC 6290) on one connection, among its `extensions`: our roles, and what a token is made of."""

    roles: Roles = "both"
    method: TokenMethod = "spi"

    @property
    def makes(self) -> bool:
        """Whether we make tokens."""
        return self.roles in ("both", "maker")

    @property
    def takes(self) -> bool:
        """Whether we keep the peer's tokens."""
        return self.roles in ("both", "taker")


def qcd_of(connection: Connection) -> QcdOptions:
    """QCD as this connection has it configured, else as it is by default."""
    return connection.extension(QcdOptions) or _DEFAULT_QCD


_DEFAULT_QCD = QcdOptions()


@dataclass(frozen=True, slots=True)
class SirOptions:
    """SIR on one connection. `auto`: say so and answer, ask who says so; `force`: ask the peer in any case
    (its responder may be a process of its own); `off`: neither."""

    role: SirRole = "auto"


def sir_of(connection: Connection) -> SirOptions:
    """SIR as this connection has it configured, else as it is by default."""
    return connection.extension(SirOptions) or _DEFAULT_SIR


_DEFAULT_SIR = SirOptions()


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """The methods that one connection uses to find out about its peer, in the order of preference."""

    methods: tuple[Method, ...] = tuple(Method)


def methods_of(connection: Connection) -> tuple[Method, ...]:
    """The methods of this connection, strongest first; all of them by default."""
    return (connection.extension(PolicyOptions) or _DEFAULT_POLICY).methods


_DEFAULT_POLICY = PolicyOptions()


@dataclass(frozen=True, slots=True)
class ResumptionOptions:
    """Session resumption (RFC 5723) on one connection, as client and as gateway.

    Off unless asked for: a ticket that was shown is in the clear on the wire, and with it forward secrecy of
    the resumed SA, and of the one before, ends only when the key that sealed it is erased.
    `lifetime_s` is that of a ticket. `limit_s` (0: none) is how long after its last full authentication a
    peer can resume; a certificate's end is always one.
    """

    enabled: bool = False
    lifetime_s: float = 8 * 3600.0
    limit_s: float = 0.0


def resumption_of(connection: Connection) -> ResumptionOptions:
    """Resumption as this connection has it configured, else as it is by default."""
    return connection.extension(ResumptionOptions) or _DEFAULT_RESUMPTION


_DEFAULT_RESUMPTION = ResumptionOptions()


@dataclass(frozen=True, slots=True)
class RedirectOptions:
    """Redirect (RFC 5685) on one connection: whether we say that we follow the peer's word to go to another
    gateway, and do."""

    follow: bool = True


def follows(connection: Connection) -> bool:
    """Whether this connection may be sent elsewhere; by default it may."""
    return (connection.extension(RedirectOptions) or _DEFAULT_REDIRECT).follow


_DEFAULT_REDIRECT = RedirectOptions()


@dataclass(frozen=True, slots=True)
class CrashOptions:
    """Limits, in events per second (`..._rate`) and events at once (`..._burst`).

    The defaults fit a gateway with some 10,000 peers: within `boot_window_s` of its boot it gives each a
    hint and a token in about ten seconds; later it answers a tenth of that rate, which is plenty for the
    peers that come late.
    """

    answer_strangers: bool = True
    """Whether a packet with an unknown SPI is answered in the clear at all. Most daemons do not; without it
    the peers have our silence to go by, and announcements if those are on."""
    boot_window_s: float = 120.0
    """For so long after boot, or after another member's life has ended, the limits per source and in total
    are `boot_factor` times as large.
    Garbage and the limits per SPI stay as they are. 0: no such window."""
    boot_factor: float = 10.0

    source_rate: float = 4.0
    """Answers to one source (an IPv4 address, an IPv6 /64), for each kind of question. Many peers can
    share one behind a NAT."""
    source_burst: float = 12.0
    spi_rate: float = 2.0
    """Answers about one SPI: nobody who does not know a peer's SPI can use up what is that peer's."""
    spi_burst: float = 4.0

    total_rate: float = 200.0
    """Answers with tokens, to requests with an SPI of an ended epoch."""
    total_burst: float = 400.0
    recent_rate: float = 20.0
    """Answers with tokens, to requests with an SPI of this epoch that no longer lives. Anybody can get
    such an SPI with an IKE_SA_INIT, so these can't touch the budget above."""
    recent_burst: float = 40.0
    mapped_rate: float = 200.0
    """Answers with tokens, for ESP SPIs that the SPI map has; and as many, apart, for its IKE SPIs."""
    mapped_burst: float = 400.0
    esp_rate: float = 200.0
    """Unprotected INVALID_SPI without tokens."""
    esp_burst: float = 400.0
    garbage_rate: float = 10.0
    """Answers to requests with an SPI that we never chose. Without tokens."""
    garbage_burst: float = 20.0

    probe_rate: float = 1.0
    """Liveness checks of one SA caused by hints."""
    probe_burst: float = 3.0
    lost_child_rate: float = 1.0
    """Protected INVALID_SPI sent in one SA; children replaced at the peer's word in one SA."""
    lost_child_burst: float = 3.0

    check_rate: float = 200.0
    """NACKs about IKE SPIs that we chose (SIR)."""
    check_burst: float = 400.0
    check_esp_rate: float = 50.0
    """NACKs about ESP SPIs, which anybody can make up."""
    check_esp_burst: float = 100.0
    query_rate: float = 1.0
    """CHECK_SPI queries about one SA that hints cause, beside their retransmission."""
    query_burst: float = 3.0

    rebuilds_per_hour: float = 6.0
    """New IKE SAs that unauthenticated evidence can cause with one peer, in an hour and at once."""

    spi_map: bool = True
    """Keep the persistent map from child SPIs to IKE SAs (RFC 6290 section 8.2)."""
    spi_map_size: int = 200_000
    """Child SAs that the map holds at most, those of ended lives included."""
    spi_map_keep_s: float = 86_400.0
    """For so long after a life's end its child SAs are kept."""
    announce: bool = True
    """Tell peers in the map after a boot, unasked: idle tunnels recover too. It goes only to addresses in
    our own bound map, one datagram for each SA and round, so nobody can turn it against somebody."""
    announce_rate: float = 100.0
    """Announcements per second."""
    announce_rounds: int = 5
    """How often a peer is told that does not come back."""
    announce_interval_s: float = 2.0
    """Between the first two rounds, give or take half of it; doubled for each further one."""

    ticket_rotation_s: float = 8 * 3600.0
    """A key seals resumption tickets for so long; then another does, and it goes when they have expired."""
    used_tickets: int = 65_536
    """Used tickets that are remembered until they expire. When there are so many, none can be used."""
    tickets_half_open: int = 4
    """Half-open SAs of one ticket, which anybody can begin who saw it."""

    renewals_at_once: int = 64
    """Before a rotation: how many SAs renew their tokens at the same time."""
