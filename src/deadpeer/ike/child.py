"""Child SAs: what is kept of one; how one is offered, chosen, installed (RFC 7296 sections 2.9, 2.17)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from deadpeer.crypto import (
    BadPublicValue,
    ChildKeys,
    KeyPair,
    ProposalError,
    SelectedEsp,
    acceptable_groups,
    check_esp_response,
    derive_child_keys,
    generate_key,
    offer,
    select_esp,
)
from deadpeer.crypto.suites import EspSuite, Group
from deadpeer.ike import selectors
from deadpeer.ike.connection import ChildConfig
from deadpeer.plane.model import InstallChild
from deadpeer.values import Now
from deadpeer.wire import (
    KeyExchange,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Payload,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectors,
)

if TYPE_CHECKING:
    from deadpeer.ike.sa import IkeSa

NONCE_OCTETS = 32
MAX_CHILDREN = 128
"""Child SAs in one IKE SA; a peer that asks for more gets NO_ADDITIONAL_SAS (twice as many by rekeying)."""


class ChildState(Enum):
    """Where a child SA stands; requests in flight about it are kept elsewhere."""

    INSTALLED = "installed"
    REKEYED = "rekeyed"
    """Replaced; inbound goes on until it is deleted."""
    DELETING = "deleting"


@dataclass(slots=True)
class ChildSa:
    """One pair of ESP SAs. `number` names it to the data plane, `policy` the selectors that it serves."""

    number: int
    config: ChildConfig
    policy: int
    spi_in: int
    spi_out: int
    suite: EspSuite
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    created_ns: int
    state: ChildState = ChildState.INSTALLED
    deferred: bool = False
    """Our outbound half waits for the peer's word that it has the child (see `deadpeer.ike.switch`)."""
    patience_s: float = 0.0
    """How long it waits after our answer; 0 is without limit: it replaces one that the peer owes a DELETE."""
    successor: int | None = None
    rival: bool = False
    """Made by the peer while our own rekeying of the same child is under way: the nonces will decide."""
    ours: bool = False
    """We asked for it."""
    lowest_nonce: bytes = b""
    """The lower one of the two that it was made with."""

    @property
    def name(self) -> str:
        """The name of the configuration that it was made from."""
        return self.config.name


class ChildError(Exception):
    """A child SA can't be made; `notify` says so to the peer."""

    def __init__(self, notify: NotifyType, text: str, data: bytes = b"") -> None:
        super().__init__(text)
        self.notify = Notify(notify, data)


@dataclass(slots=True)
class ChildOffer:
    """What the initiator of an exchange offered, kept until the answer comes."""

    config: ChildConfig
    spi_in: int
    sa: SecurityAssociation
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    key_pair: KeyPair | None = None
    nonce: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ChildChoice:
    """What both sides agreed on."""

    config: ChildConfig
    selected: SelectedEsp
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]


def propose(
    sa: IkeSa,
    config: ChildConfig,
    *,
    first: bool,
    group: Group | None = None,
    narrowed: ChildSa | None = None,
) -> ChildOffer:
    """Make an offer. `first`: in IKE_AUTH, without a group or a nonce of its own.

    `group` is the one that the peer asked for with INVALID_KE_PAYLOAD; `narrowed` the child that is
    rekeyed, whose selectors the new one keeps (section 2.9.2).
    """
    spi_in = sa.env.esp_spi()
    templates = config.esp_proposals
    local_ts = narrowed.local_ts if narrowed else selectors.resolve(config.local_ts, sa.local.host)
    remote_ts = narrowed.remote_ts if narrowed else selectors.resolve(config.remote_ts, sa.remote.host)
    result = ChildOffer(
        config, spi_in, offer(templates, spi_in.to_bytes(4, "big"), not first), local_ts, remote_ts
    )
    if not first:
        result.nonce = sa.env.entropy.octets(NONCE_OCTETS)
        groups = acceptable_groups(templates)
        if groups:
            chosen = group if group in groups else groups[0]
            result.key_pair = generate_key(chosen, sa.env.entropy)
    return result


def offer_payloads(made: ChildOffer) -> list[Payload]:
    """SA, [Ni, [KEi]], TSi, TSr of the offer."""
    payloads: list[Payload] = [made.sa]
    if made.nonce:
        payloads.append(Nonce(made.nonce))
    if made.key_pair is not None:
        payloads.append(KeyExchange(made.key_pair.group.transform_id, made.key_pair.public))
    payloads.append(TrafficSelectors(True, made.local_ts))
    payloads.append(TrafficSelectors(False, made.remote_ts))
    return payloads


def check_answer(made: ChildOffer, answer: Message) -> tuple[ChildChoice, bytes]:
    """The initiator's check of SA, TSi, TSr (and KEr). Returns the choice and the shared secret (or b"").

    Raises ChildError for an answer that is not what we offered.
    """
    sa_payload = answer.first(SecurityAssociation)
    ts = _selectors(answer)
    if sa_payload is None or ts is None:
        raise ChildError(NotifyType.INVALID_SYNTAX, "the answer lacks SA or traffic selectors")
    try:
        selected = check_esp_response(made.sa, sa_payload)
    except ProposalError as error:
        raise ChildError(NotifyType.NO_PROPOSAL_CHOSEN, str(error)) from None
    local_ts, remote_ts = ts
    if not selectors.within(local_ts, made.local_ts) or not selectors.within(remote_ts, made.remote_ts):
        raise ChildError(NotifyType.TS_UNACCEPTABLE, "the answer's traffic selectors exceed our offer")
    shared = b""
    if selected.suite.group is not None:
        shared = _agree(selected.suite.group, made.key_pair, answer)
    return ChildChoice(made.config, selected, local_ts, remote_ts), shared


def choose(
    sa: IkeSa, request: Message, *, first: bool, rekeyed: ChildSa | None = None
) -> tuple[ChildChoice, KeyPair | None, bytes]:
    """The responder's choice for SA, TSi, TSr (and KEi): (choice, our key pair, shared secret).

    Raises ChildError with what to tell the peer.
    """
    offered = request.first(SecurityAssociation)
    ts = _selectors(request)
    if offered is None or ts is None:
        raise ChildError(NotifyType.INVALID_SYNTAX, "the request lacks SA or traffic selectors")
    remote_offer, local_offer = ts
    exchange = request.first(KeyExchange)
    matched = False
    for config in (rekeyed.config,) if rekeyed else sa.connection.children:
        local_ts = selectors.narrow(local_offer, selectors.resolve(config.local_ts, sa.local.host))
        remote_ts = selectors.narrow(remote_offer, selectors.resolve(config.remote_ts, sa.remote.host))
        if not local_ts or not remote_ts:
            continue
        matched = True
        prefer = exchange.group if exchange is not None else None
        selected = select_esp(offered, config.esp_proposals, not first, prefer)
        if selected is None:
            continue
        choice = ChildChoice(config, selected, local_ts, remote_ts)
        group = selected.suite.group
        if first or group is None:
            return choice, None, b""
        if exchange is None or exchange.group != group.transform_id:
            raise ChildError(
                NotifyType.INVALID_KE_PAYLOAD,
                f"the peer's key exchange is not for {group.name}",
                group.transform_id.to_bytes(2, "big"),
            )
        key_pair = generate_key(group, sa.env.entropy)
        return choice, key_pair, _agree(group, key_pair, request)
    if matched:
        raise ChildError(NotifyType.NO_PROPOSAL_CHOSEN, "no ESP proposal in common")
    raise ChildError(NotifyType.TS_UNACCEPTABLE, "no traffic selectors in common")


def answer_payloads(
    choice: ChildChoice, spi_in: int, nonce: bytes, key_pair: KeyPair | None
) -> list[Payload]:
    """SA, [Nr, [KEr]], TSi, TSr of the responder."""
    payloads: list[Payload] = [choice.selected.answer(spi_in.to_bytes(4, "big"))]
    if nonce:
        payloads.append(Nonce(nonce))
    if key_pair is not None:
        payloads.append(KeyExchange(key_pair.group.transform_id, key_pair.public))
    payloads.append(TrafficSelectors(True, choice.remote_ts))
    payloads.append(TrafficSelectors(False, choice.local_ts))
    return payloads


def install(
    sa: IkeSa,
    now: Now,
    choice: ChildChoice,
    spi_in: int,
    nonces: tuple[bytes, bytes],
    shared: bytes,
    *,
    we_initiated: bool,
    outbound_now: bool = True,
    policy: int | None = None,
) -> ChildSa:
    """Derive the keys of a child, hand it to the data plane and enter it in `sa`. `nonces` is (Ni, Nr)."""
    suite = choice.selected.suite
    keys: ChildKeys = derive_child_keys(sa.suite.prf, sa.sk_d, suite, *nonces, shared)
    inbound, outbound = (keys.responder, keys.initiator) if we_initiated else (keys.initiator, keys.responder)
    config = choice.config
    child = ChildSa(
        number=sa.env.child_number(),
        config=config,
        policy=policy if policy is not None else sa.env.policy_number(sa, config),
        spi_in=spi_in,
        spi_out=int.from_bytes(choice.selected.spi, "big"),
        suite=suite,
        local_ts=choice.local_ts,
        remote_ts=choice.remote_ts,
        created_ns=now.mono_ns,
        deferred=not outbound_now,
        ours=we_initiated,
        lowest_nonce=min(nonces),
    )
    sa.env.plane(
        InstallChild(
            child=child.number,
            policy=child.policy,
            spi_in=spi_in,
            spi_out=child.spi_out,
            suite=suite,
            inbound=inbound,
            outbound=outbound,
            local=sa.local,
            remote=sa.remote,
            local_ts=child.local_ts,
            remote_ts=child.remote_ts,
            outbound_now=outbound_now,
            replay_window=config.replay_window,
            soft_packets=config.lifetime.packets,
            soft_octets=config.lifetime.octets,
        )
    )
    sa.env.keylog_child(sa, child, inbound, outbound)
    sa.adopt(now, child)
    return child


def _selectors(message: Message) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None:
    """(TSi, TSr) of a message, or None if one is missing."""
    found = message.all(TrafficSelectors)
    initiator = next((t.selectors for t in found if t.initiator), None)
    responder = next((t.selectors for t in found if not t.initiator), None)
    return (initiator, responder) if initiator and responder else None


def _agree(group: Group, key_pair: KeyPair | None, message: Message) -> bytes:
    exchange = message.first(KeyExchange)
    if key_pair is None or exchange is None or exchange.group != group.transform_id:
        raise ChildError(NotifyType.INVALID_SYNTAX, "the key exchange payload does not fit the proposal")
    if key_pair.group != group:
        raise ChildError(NotifyType.INVALID_SYNTAX, "the peer chose a group that we sent no value for")
    try:
        return key_pair.shared(exchange.data)
    except BadPublicValue as error:
        raise ChildError(NotifyType.INVALID_SYNTAX, str(error)) from None
