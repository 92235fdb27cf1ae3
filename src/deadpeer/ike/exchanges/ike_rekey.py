"""CREATE_CHILD_SA that rekeys the IKE SA itself (RFC 7296 sections 1.3.2, 2.8, 2.18), both roles."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.crypto import (
    BadPublicValue,
    Group,
    KeyPair,
    ProposalError,
    acceptable_groups,
    check_ike_response,
    generate_key,
    offer,
    rekey_skeyseed,
    select_ike,
)
from deadpeer.ike import extension as ext
from deadpeer.ike.child import NONCE_OCTETS
from deadpeer.ike.collision import Decision, Incoming, Own, decide, ours_is_redundant, retry_after_s
from deadpeer.ike.exchange import Exchange, own_request
from deadpeer.ike.exchanges.informational import DeleteIke, Probe
from deadpeer.ike.extension import Slot
from deadpeer.ike.handover import await_decision, discard, retire, successor_of, take_over
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import NS_PER_S, Now
from deadpeer.wire import (
    ExchangeType,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Payload,
    SecurityAssociation,
    label,
)

MAX_ATTEMPTS = 5
LATE_S = 2.0
"""After a response that took so long it is asked whether the peer still has the new IKE SA: its DELETE can
have come, and have been given up, when we did not know the SPIs yet."""


class RekeyIke(Exchange):
    """Replace the IKE SA by a new one with fresh keys, hand it the children, delete the old one."""

    exchange_type = ExchangeType.CREATE_CHILD_SA
    own = Own.REKEY_IKE
    reason = "IKE SA rekey request"

    def __init__(self, tag: int = 0) -> None:
        self._tag = tag
        self._group: Group | None = None
        self._attempts = 0
        self._rival: IkeSa | None = None
        self._rival_nonces = (b"", b"")
        self._key_pair: KeyPair | None = None
        self._nonce = b""
        self._asked_ns = 0
        self._own_spi = b""
        self._offered: SecurityAssociation | None = None

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        if sa.state is not IkeState.ESTABLISHED:
            sa.env.done(self._tag, False, "the IKE SA is being deleted")
            return None
        self._attempts += 1
        self._asked_ns = now.mono_ns
        groups = acceptable_groups(sa.connection.proposals)
        preferred = self._group or sa.suite.group
        self._key_pair = generate_key(preferred if preferred in groups else groups[0], sa.env.entropy)
        self._nonce = sa.env.entropy.octets(NONCE_OCTETS)
        self._own_spi = sa.env.ike_spi()
        # The peer can send on the new SA before its response is here: nobody is told that it is unknown.
        sa.env.table.reserve(self._own_spi)
        self._offered = offer(sa.connection.proposals, self._own_spi)
        key = KeyExchange(self._key_pair.group.transform_id, self._key_pair.public)
        return [self._offered, Nonce(self._nonce), key]

    def rival(self, new: IkeSa, nonces: tuple[bytes, bytes]) -> None:
        """The peer rekeyed the same IKE SA while our request is under way."""
        self._rival, self._rival_nonces = new, nonces

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        spi = self._own_spi
        self._conclude(sa, now, answer)
        sa.env.table.unreserve(spi)

    def abandoned(self, sa: IkeSa, now: Now, why: str) -> None:
        sa.env.table.unreserve(self._own_spi)
        rival = self._living_rival()
        if rival is not None and rival.predecessor is not None:
            discard(now, rival, why)
            rival = None
        sa.env.done(self._tag, rival is not None, "IKE SA rekeyed by the peer" if rival is not None else why)

    def moves(self, sa: IkeSa, now: Now) -> bool:
        """The peer was faster: what we wanted is done."""
        sa.env.done(self._tag, True, "IKE SA rekeyed by the peer")
        return False

    # --- helpers ---------------------------------------------------------------------------------

    def _conclude(self, sa: IkeSa, now: Now, answer: Message) -> None:
        error = next((n for n in answer.all(Notify) if n.is_error), None)
        if error is not None:
            self._refused(sa, now, error)
            return
        made = self._complete(sa, now, answer)
        if isinstance(made, str):
            if not self._yielded(sa, now):
                self._failed(sa, now, made)
            return
        new, nonces = made
        rival = self._living_rival()
        if rival is not None and ours_is_redundant(nonces, self._rival_nonces):
            # Section 2.8.2: ours has the lowest nonce, so we close it; the peer deletes the old SA.
            self._yielded(sa, now)
            retire(now, new)
            new.submit(now, DeleteIke("redundant"))
            return
        take_over(now, sa, new, initiated=True)
        if rival is not None:
            retire(now, rival)  # the peer deletes it
        new.env.signal(now, ext.PeerNotifies(new, Slot.IKE_REKEY, answer.all(Notify)))
        sa.submit(now, DeleteIke("rekeyed"))
        sa.env.done(self._tag, True, "IKE SA rekeyed")
        if now.mono_ns - self._asked_ns >= LATE_S * NS_PER_S:
            new.submit(now, Probe("rekeyed late"))

    def _living_rival(self) -> IkeSa | None:
        return self._rival if self._rival is not None and not self._rival.is_closed() else None

    def _yielded(self, sa: IkeSa, now: Now) -> bool:
        """Let the SA that the peer made take over, if there is one."""
        rival = self._living_rival()
        if rival is None:
            return False
        if rival.predecessor is not None:
            take_over(now, sa, rival, initiated=False)
        sa.env.done(self._tag, True, "IKE SA rekeyed by the peer")
        return True

    def _complete(self, sa: IkeSa, now: Now, answer: Message) -> tuple[IkeSa, tuple[bytes, bytes]] | str:
        chosen, nonce, key = (
            answer.first(SecurityAssociation),
            answer.first(Nonce),
            answer.first(KeyExchange),
        )
        pair, offered = self._key_pair, self._offered
        if chosen is None or nonce is None or key is None or pair is None or offered is None:
            return "the response lacks SA, nonce or key exchange"
        try:
            suite = check_ike_response(offered, chosen)
            if suite.group != pair.group or key.group != pair.group.transform_id:
                return "the response is for another group"
            shared = pair.shared(key.data)
        except (ProposalError, BadPublicValue) as error:
            return str(error)
        peer_spi = chosen.proposals[0].spi
        if len(peer_spi) != 8 or peer_spi == bytes(8):
            return "the response has no SPI"
        new = successor_of(sa, now, we_initiated=True, own_spi=self._own_spi, peer_spi=peer_spi)
        nonces = (self._nonce, nonce.data)
        new.set_keys(suite, rekey_skeyseed(sa.suite.prf, sa.sk_d, shared, *nonces), *nonces)
        sa.env.table.add(new)
        new.established_now(now)
        return new, nonces

    def _refused(self, sa: IkeSa, now: Now, error: Notify) -> None:
        if self._yielded(sa, now):
            return
        if error.type == NotifyType.INVALID_KE_PAYLOAD and self._attempts < MAX_ATTEMPTS:
            wanted = int.from_bytes(error.data, "big") if len(error.data) == 2 else 0
            groups = {g.transform_id: g for g in acceptable_groups(sa.connection.proposals)}
            if wanted in groups and groups[wanted] is not self._group:
                self._group = groups[wanted]
                sa.submit(now, self, urgent=True)
                return
        if error.type == NotifyType.TEMPORARY_FAILURE and self._attempts < MAX_ATTEMPTS:
            sa.submit_later(now, self, retry_after_s(sa.env.entropy))
            return
        self._failed(sa, now, f"the peer refused: {label(NotifyType, error.type)}")

    def _failed(self, sa: IkeSa, now: Now, why: str) -> None:
        sa.env.event("rekey_failed", "warning", connection=sa.connection.name, sa=sa.number, reason=why)
        sa.env.done(self._tag, False, why)
        self._tag, self._attempts = 0, 0
        sa.submit_later(now, self, 10 * retry_after_s(sa.env.entropy))


def respond_rekey_ike(sa: IkeSa, now: Now, request: Message) -> Sequence[Payload]:
    """The peer rekeys the IKE SA."""
    decision = decide(own_request(sa), Incoming.REKEY_IKE)
    if decision is Decision.TEMPORARY_FAILURE or sa.state is not IkeState.ESTABLISHED:
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    if sa.successor is not None and not sa.successor.is_closed():
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    if _no_room(sa):
        sa.env.count("rekeying put off: too many IKE SAs")
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    offered, nonce, key = (
        request.first(SecurityAssociation),
        request.first(Nonce),
        request.first(KeyExchange),
    )
    if offered is None or nonce is None or key is None:
        return (Notify(NotifyType.INVALID_SYNTAX),)
    selected = select_ike(offered, sa.connection.proposals, key.group)
    if selected is None or len(selected.spi) != 8 or selected.spi == bytes(8):
        return (Notify(NotifyType.NO_PROPOSAL_CHOSEN),)
    group = selected.suite.group
    if key.group != group.transform_id:
        return (Notify(NotifyType.INVALID_KE_PAYLOAD, group.transform_id.to_bytes(2, "big")),)
    pair = generate_key(group, sa.env.entropy)
    try:
        shared = pair.shared(key.data)
    except BadPublicValue:
        return (Notify(NotifyType.INVALID_SYNTAX),)
    own_spi = sa.env.ike_spi()
    new = successor_of(sa, now, we_initiated=False, own_spi=own_spi, peer_spi=selected.spi)
    nonces = (nonce.data, sa.env.entropy.octets(NONCE_OCTETS))
    new.set_keys(selected.suite, rekey_skeyseed(sa.suite.prf, sa.sk_d, shared, *nonces), *nonces)
    sa.env.table.add(new)
    new.established_now(now)
    active = sa.active
    notifies = request.all(Notify)
    if decision is Decision.PROCEED_AS_RIVAL and isinstance(active, RekeyIke):
        active.rival(new, nonces)
        await_decision(sa, new)
    else:

        def after() -> None:
            take_over(now, sa, new, initiated=False)
            new.env.signal(now, ext.PeerNotifies(new, Slot.IKE_REKEY, notifies))

        sa.after_reply.append(after)
    return [
        selected.answer(own_spi),
        Nonce(nonces[1]),
        KeyExchange(group.transform_id, pair.public),
        *sa.env.contribute(now, Slot.IKE_REKEY, new, response=True),
    ]


def _no_room(sa: IkeSa) -> bool:
    """Whether there are too many IKE SAs, some of which this peer has replaced and not deleted.

    A full gateway must be able to rekey: one more for each peer, until its DELETE comes.
    """
    table = sa.env.table
    full = len(table) >= sa.env.config.max_ike_sas
    return full and any(other.state is IkeState.REKEYED for other in table.at(sa.remote))
