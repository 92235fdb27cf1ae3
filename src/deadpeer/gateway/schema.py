"""The shape of a configuration file: every key, its type, bounds, default, meaning and an example.

Key names are those of swanctl.conf where the meaning is the same. What needs more than one key, or
another file, is judged in `resolve`. docs/configuration.md is made from this file (`reference`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from deadpeer.crash.options import Roles, SirRole, TokenMethod
from deadpeer.ike.connection import AuthKind, CloseAction, DpdAction, StartAction
from deadpeer.plane.steering import DEFAULT_TABLE, FIRST_TABLE, LAST_TABLE

from .schema_cluster import ClusterSection
from .schema_standby import StandbySection
from .shapes import Burst, Count, Port, Rate, Seconds, Section, Strings, Text, key, one_or_many

LogLevel = Literal["debug", "info", "notice", "warning"]
PlaneKind = Literal["tun", "unix"]
MethodName = Literal["qcd", "sir", "reconnect", "liveness"]


def _each_once(names: list[MethodName]) -> list[MethodName]:
    """Their order means something, so none may be there twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'"{name}" is there twice; name it once')
    return names


def _table(value: int) -> int:
    """The kernel's own tables end at 255, its own rules begin at priority 32766."""
    if value and not FIRST_TABLE <= value <= LAST_TABLE:
        raise ValueError(f"{value} is out of range: it must be 0, or {FIRST_TABLE} to {LAST_TABLE}")
    return value


class GatewaySection(Section):
    """The daemon as a whole."""

    state_dir: Text = key(
        "/var/lib/deadpeer",
        "Directory for what must survive a crash. Mode 0700; created if missing; one daemon at a time."
        " Never a copy of another gateway's: the two would give tokens away for each other's living SAs.",
        '"/var/lib/deadpeer"',
    )
    control: Text = key(
        "/run/deadpeer/control.sock",
        "Path of the control socket, at most 107 octets.",
        '"/run/deadpeer/control.sock"',
    )
    listen: Strings = key(
        [],
        "Local addresses to open sockets on. Empty: every address that the host has when the gateway starts,"
        " loopback and link-local ones left out.",
        '["192.0.2.1", "2001:db8::1"]',
    )
    port: Port = key(500, "UDP port for IKE.", "500")
    port_nat_t: Port = key(4500, "UDP port for IKE behind a NAT, and for ESP in UDP.", "4500")
    plane: PlaneKind = key(
        "tun",
        "Where inner packets come from and go to: a TUN device, or a UNIX datagram socket (for a laboratory"
        " without root: whoever is at its other end is the host behind the gateway).",
        '"tun"',
    )
    tun: Text = key("deadpeer0", "Name of the TUN device.", '"deadpeer0"', max_length=15)
    tun_mtu: int = key(1400, "MTU of the TUN device, octets.", "1400", ge=576, le=65535)
    tun_addresses: Strings = key(
        [], "Addresses to give to the TUN device, with the length of their prefix.", '["10.0.0.1/24"]'
    )
    routes: bool = key(
        True,
        "Set routes into the TUN device for the remote traffic selectors of trapped and installed children.",
        "true",
    )
    route_table: Annotated[int, AfterValidator(_table)] = key(
        DEFAULT_TABLE,
        "Number of the routing table for these routes; the rules that ask it have the priorities from this"
        " number to 299 above it. What the gateway itself sends never enters the tunnel, even where a remote"
        " traffic selector (0.0.0.0/0) holds the peer's address. 0: the main table, without rules; such a"
        " network is then not routed.",
        "6290",
    )
    unix_local: Text | None = key(
        None, 'With plane = "unix": path of the gateway\'s end, at most 107 octets.', '"/run/lab/gw.sock"'
    )
    unix_peer: Text | None = key(
        None, 'With plane = "unix": path of the host\'s end, at most 107 octets.', '"/run/lab/host.sock"'
    )
    faults: bool = key(
        False,
        'For laboratories only: the control socket takes the commands "lose", which makes SAs vanish without'
        ' a word to anybody, as a fault would, and "clock", which has the clock of a member run at another'
        " rate.",
        "false",
    )
    log_level: LogLevel = key("info", "Events below this level are not logged.", '"info"')
    receive_buffer: int = key(
        8 * 1024 * 1024,
        "Receive buffer of each UDP socket, octets. Without CAP_NET_ADMIN the kernel may grant less"
        " (net.core.rmem_max).",
        "8388608",
        ge=4096,
        le=1024**3,
    )
    hold_packets: int = key(
        64, "Inner packets that wait for a child SA that is being built, per policy.", "64", ge=0, le=100_000
    )
    cookie_threshold: int = key(
        30,
        "Half-open IKE SAs above which strangers must return a cookie first; 0: always.",
        "30",
        ge=0,
        le=10**9,
    )
    half_open_limit: int = key(
        1000, "Half-open IKE SAs above which new ones are dropped.", "1000", ge=1, le=10**9
    )
    half_open_per_source: int = key(
        5,
        "Half-open IKE SAs of one source address above which it must return a cookie first.",
        "5",
        ge=0,
        le=10**9,
    )
    half_open_per_proven_source: int = key(
        20,
        "Half-open IKE SAs of one source address that returned a cookie above which its new ones are"
        " dropped.",
        "20",
        ge=1,
        le=10**9,
    )
    half_open_timeout: Seconds = key(30.0, "A half-open IKE SA is forgotten after this time.", '"30s"', gt=0)
    max_ike_sas: int = key(100_000, "Largest number of IKE SAs.", "100000", ge=1, le=10**9)
    nat_keepalive: Seconds = key(
        20.0, "Interval of NAT keepalives while nothing else is sent; 0: none.", '"20s"'
    )
    child_linger: Seconds = key(
        5.0, "How long a replaced child SA goes on receiving, for packets under way.", '"5s"'
    )
    init_timeout: Seconds = key(60.0, "How long one attempt at a new IKE SA goes on.", '"60s"', gt=0)
    retry_cap: Seconds = key(
        1.0, "Largest interval between retransmissions of IKE_SA_INIT while recovering.", '"1s"', gt=0
    )


class LocalSection(Section):
    """How we prove who we are."""

    auth: AuthKind = key("pubkey", "Shared key (`psk`) or certificate (`pubkey`).", '"psk"')
    id: Text | None = key(
        None,
        "Our identity: an address, a domain name, a mail address, or a distinguished name."
        " Default: the certificate's subject; with psk it must be given.",
        '"alice.example"',
    )
    certs: Strings = key(
        [],
        "With pubkey: file of our certificate, then files of intermediate ones. PEM or DER.",
        '["alice.pem"]',
    )
    private_key: Text | None = key(
        None,
        "With pubkey: file of the private key, mode 0600, PEM or DER, without a passphrase.",
        '"alice.key"',
    )
    secret_file: Text | None = key(
        None,
        "With psk: file of the shared secret, mode 0600. One newline at its end is left out; 0x begins"
        " hexadecimal, 0s base64.",
        '"home.psk"',
    )


class RemoteSection(Section):
    """What the peer must prove."""

    auth: AuthKind = key("pubkey", "Shared key (`psk`) or certificate (`pubkey`).", '"psk"')
    id: Text | None = key(
        None,
        'The identity that the peer must prove. Default, or "%any": any that its credentials allow.',
        '"bob.example"',
    )
    cacerts: Strings = key(
        [],
        "With pubkey: files of the certification authorities that may vouch for the peer. PEM or DER.",
        '["ca.pem"]',
    )
    secret_file: Text | None = key(
        None, "With psk: file of the shared secret. Default: that of `local`.", '"home.psk"'
    )


class ChildSection(Section):
    """One pair of networks, or of hosts, that the tunnel joins."""

    local_ts: Strings = key(
        ["dynamic"],
        "Traffic selectors behind us: networks, addresses, ranges `a-b`, each perhaps with"
        " `[protocol/port]`; `dynamic` is our own outer address.",
        '["10.0.0.0/24"]',
    )
    remote_ts: Strings = key(
        ["dynamic"],
        "Traffic selectors behind the peer; `dynamic` is its outer address.",
        '["10.0.1.0/24[tcp/443]"]',
    )
    esp_proposals: Strings = key(
        ["default"], "Proposals for ESP, best first.", '["aes256gcm16-x25519", "chacha20poly1305"]'
    )
    start_action: StartAction = key(
        "none",
        "At start: nothing, bring the child up (`start`), or when a packet wants it (`trap`).",
        '"start"',
    )
    dpd_action: DpdAction | None = key(
        None,
        "When the peer lost its SAs: let packets wait and bring the child back (`trap`), build it at once"
        " (`restart`), or forget it (`clear`: we begin nothing; packets are dropped, unless `start_action` is"
        " `trap`). SIR and reconnect, whose only proof is a new SA, build one at once for `trap` as well, and"
        " with all children of the old SA; where all are `clear` they leave the verdict to the other methods."
        " Default: `trap`; `clear` without a single address in `remote_addrs`.",
        '"restart"',
    )
    close_action: CloseAction = key("none", "When the peer deletes the child.", '"trap"')
    rekey_time: Seconds = key(3600.0, "The child is rekeyed after this time; 0: never.", '"1h"')
    life_time: Seconds | None = key(
        None, "The child is deleted after this time; 0: never. Default: rekey_time and a tenth.", '"66m"'
    )
    rand_time: Seconds | None = key(
        None, "Rekeying begins up to this much earlier, at random. Default: a tenth of rekey_time.", '"6m"'
    )
    rekey_packets: Count = key(
        0, "Rekey after so many packets in either direction; 0: no such limit.", "1000000000"
    )
    rekey_bytes: Count = key(
        0, "Rekey after so many octets in either direction; 0: no such limit.", "1000000000000"
    )
    replay_window: int = key(64, "Width of the anti-replay window, packets.", "64", ge=32, le=65536)


class ConnectionSection(Section):
    """One peer, or one kind of peer."""

    local_addrs: Strings = key(
        ["%any"],
        "Our outer addresses or networks for this connection; the first one initiates.",
        '["192.0.2.1"]',
    )
    remote_addrs: Strings = key(
        ["%any"],
        "The peer's outer addresses or networks. To initiate there must be a single address among them.",
        '["198.51.100.1"]',
    )
    remote_port: Port = key(500, "The peer's UDP port for IKE.", "500")
    remote_port_nat_t: Port = key(4500, "The peer's UDP port for IKE behind a NAT.", "4500")
    proposals: Strings = key(
        ["default"], "Proposals for IKE, best first.", '["aes256gcm16-prfsha384-x25519"]'
    )
    dpd_delay: Seconds = key(
        30.0,
        "A peer silent for so long is asked if it lives; 0: only when traffic goes out and none returns.",
        '"30s"',
    )
    dpd_timeout: Seconds = key(
        60.0, "A request is retransmitted for so long before the peer is given up.", '"60s"', gt=0
    )
    dpd_floor: Seconds = key(
        60.0, "For silence alone a peer is never given up before so long without a protected word.", '"60s"'
    )
    silence: Seconds = key(
        1.5, "Traffic out and nothing back for so long asks whether the peer lives; 0: off.", '"1500ms"'
    )
    encap: bool = key(
        True, "Force UDP encapsulation, also without a NAT. The userspace plane speaks nothing else.", "true"
    )
    fragmentation: bool = key(True, "Accept and use IKE fragmentation (RFC 7383).", "true")
    fragment_size: int = key(
        1280, "Largest IP packet, octets, that carries an IKE message in one piece.", "1280", ge=576, le=65535
    )
    rekey_time: Seconds = key(14400.0, "The IKE SA is rekeyed after this time; 0: never.", '"4h"')
    over_time: Seconds | None = key(
        None,
        "The IKE SA is deleted when rekeying has not succeeded this long after rekey_time."
        " Default: a tenth of rekey_time.",
        '"24m"',
    )
    rand_time: Seconds | None = key(
        None, "Rekeying begins up to this much earlier, at random. Default: a tenth of rekey_time.", '"24m"'
    )
    initial_contact: bool = key(
        False, "Tell the peer when we hold no other SA with it, so that it drops older ones.", "false"
    )
    send_certreq: bool = key(True, "Name the accepted certification authorities to the peer.", "true")
    keyingtries: int = key(
        0,
        "Attempts that a start, a trap or a recovery makes; 0: for ever. `up` makes one.",
        "0",
        ge=0,
        le=10**6,
    )
    qcd: Roles = key(
        "both",
        "Quick crash detection (RFC 6290): make tokens (`maker`), keep the peer's (`taker`), both, or off.",
        '"both"',
    )
    qcd_method: TokenMethod = key(
        "spi",
        "What a token is made of: the SPIs (RFC 6290 section 5.1), or the peer's address too (5.2).",
        '"spi"',
    )
    crash_methods: Annotated[list[MethodName], BeforeValidator(one_or_many), AfterValidator(_each_once)] = (
        key(
            ["qcd", "sir", "reconnect", "liveness"],
            "Ways to find out that the peer lost its SAs, in the order of preference. `reconnect` and"
            " `liveness` need nothing from the peer.",
            '["qcd", "reconnect", "liveness"]',
            min_length=1,
        )
    )
    sir: SirRole = key(
        "auto",
        "Safe IKE recovery: `auto` answers queries, and asks peers that announce it; `force` asks any peer;"
        " `off` neither.",
        '"auto"',
    )
    resumption: bool = key(
        False,
        "Session resumption (RFC 5723), as client and gateway. Forward secrecy of a resumed SA ends only when"
        " the key that sealed its ticket is erased.",
        "false",
    )
    ticket_lifetime: Seconds = key(
        28800.0, "How long a ticket that we give is good.", '"8h"', ge=60, le=30 * 86400.0
    )
    resumption_limit: Seconds = key(
        0.0,
        "For so long after its last full authentication the peer can resume; 0: for as long as its"
        " certificate is valid.",
        '"24h"',
        ge=0,
    )
    redirect: bool = key(
        True,
        "Go to another gateway when the peer sends us there (RFC 5685). Off: it deletes the SA to be rid of"
        " us, and close_action decides what then.",
        "true",
    )
    local: LocalSection = Field(description="How we prove who we are.")
    remote: RemoteSection = Field(description="What the peer must prove.")
    children: dict[str, ChildSection] = Field(description="The child SAs, by name.", min_length=1)


class QcdSection(Section):
    """Limits of answers to strangers, and of what their news can cause. Rates are per second."""

    answer_strangers: bool = key(
        True,
        "Say in the clear that an SPI is unknown (INVALID_SPI, INVALID_IKE_SPI, and the token with it). Off:"
        " a peer that lost its SA with us has only our silence to go by, and announcements.",
        "true",
    )
    boot_window: Seconds = key(
        120.0,
        "For so long after a boot, or another member's end, the limits per source and in total are "
        "boot_factor times as large; 0: not.",
        '"2m"',
    )
    boot_factor: Burst = key(10.0, "How much freer the limits are soon after a boot.", "10.0")
    source_rate: Rate = key(4.0, "Answers to one source (an IPv4 address, an IPv6 /64).", "4.0")
    source_burst: Burst = key(12.0, "The same, at once.", "12.0")
    spi_rate: Rate = key(2.0, "Answers about one SPI.", "2.0")
    spi_burst: Burst = key(4.0, "The same, at once.", "4.0")
    total_rate: Rate = key(200.0, "Answers with tokens, for SPIs of an ended epoch.", "200.0")
    total_burst: Burst = key(400.0, "The same, at once.", "400.0")
    recent_rate: Rate = key(20.0, "Answers with tokens, for SPIs of this epoch.", "20.0")
    recent_burst: Burst = key(40.0, "The same, at once.", "40.0")
    esp_rate: Rate = key(200.0, "Unprotected INVALID_SPI.", "200.0")
    esp_burst: Burst = key(400.0, "The same, at once.", "400.0")
    garbage_rate: Rate = key(10.0, "Answers, without tokens, for SPIs that we never chose.", "10.0")
    garbage_burst: Burst = key(20.0, "The same, at once.", "20.0")
    probe_rate: Rate = key(1.0, "Liveness checks of one SA that hints cause.", "1.0")
    probe_burst: Burst = key(3.0, "The same, at once.", "3.0")
    lost_child_rate: Rate = key(1.0, "Children replaced at the peer's word, for each SA.", "1.0")
    lost_child_burst: Burst = key(3.0, "The same, at once.", "3.0")
    mapped_rate: Rate = key(200.0, "Tokens for SPIs that the SPI map has: ESP's, and apart IKE's.", "200.0")
    mapped_burst: Burst = key(400.0, "The same, at once.", "400.0")
    check_rate: Rate = key(200.0, "Denials of IKE SPIs that we chose (SIR).", "200.0")
    check_burst: Burst = key(400.0, "The same, at once.", "400.0")
    check_esp_rate: Rate = key(50.0, "Denials of ESP SPIs (SIR).", "50.0")
    check_esp_burst: Burst = key(100.0, "The same, at once.", "100.0")
    query_rate: Rate = key(1.0, "CHECK_SPI queries about one SA that hints cause.", "1.0")
    query_burst: Burst = key(3.0, "The same, at once.", "3.0")
    rebuilds_per_hour: Burst = key(
        6.0, "New IKE SAs that unauthenticated evidence can cause with one peer, in an hour.", "6.0"
    )
    spi_map: bool = key(True, "Keep the SPI map on disk: tokens go out one round trip earlier.", "true")
    spi_map_size: int = key(
        200_000,
        "Child SAs that the SPI map holds at most, those of ended lives included.",
        "200000",
        ge=0,
        le=10**6,
    )
    spi_map_keep: Seconds = key(
        86400.0, "For so long the SPI map keeps the child SAs of an ended life.", '"1d"', gt=0
    )
    announce: bool = key(True, "Tell the peers in the SPI map after a boot, unasked.", "true")
    announce_rate: Annotated[float, Field(ge=0, le=10**6, allow_inf_nan=False)] = key(
        100.0, "Announcements per second; 0: none.", "100.0"
    )
    announce_rounds: int = key(5, "How often a peer that does not come back is told.", "5", ge=1, le=20)
    announce_interval: Seconds = key(
        2.0,
        "Between the first two rounds of announcements, give or take half; doubled for each further one.",
        '"2s"',
        gt=0,
    )
    ticket_rotation: Seconds = key(
        28800.0,
        "A key seals resumption tickets for so long; it is erased when they have expired.",
        '"8h"',
        ge=60,
    )
    used_tickets: int = key(
        65536,
        "Used tickets that are remembered until they expire; when there are so many, none can be used.",
        "65536",
        ge=1,
        le=10**7,
    )
    tickets_half_open: int = key(
        4, "Half-open IKE SAs that one ticket can have at once.", "4", ge=1, le=10**6
    )
    renewals_at_once: int = key(
        64, "Before a rotation: how many SAs renew their tokens at the same time.", "64", ge=1, le=10**6
    )


class Configuration(Section):
    """A whole file."""

    gateway: GatewaySection = Field(default_factory=GatewaySection, description="The daemon as a whole.")
    qcd: QcdSection = Field(default_factory=QcdSection, description="Limits of crash detection.")
    cluster: ClusterSection | None = Field(
        None, description="Membership of a cluster. Without this table the gateway is by itself."
    )
    standby: StandbySection | None = Field(
        None, description="One of two gateways with one address. Without this table it is by itself."
    )
    connections: dict[str, ConnectionSection] = Field(
        default_factory=dict, description="The peers, by name of the connection."
    )
