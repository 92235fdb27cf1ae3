"""CREATE_CHILD_SA for new children and for rekeying one (RFC 7296 sections 1.3.1, 1.3.3, 2.8), both roles."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.crypto import Group, acceptable_groups
from deadpeer.ike import extension as ext
from deadpeer.ike.child import (
    MAX_CHILDREN,
    NONCE_OCTETS,
    ChildError,
    ChildOffer,
    ChildSa,
    ChildState,
    answer_payloads,
    check_answer,
    choose,
    install,
    offer_payloads,
    propose,
)
from deadpeer.ike.collision import Decision, Incoming, Own, decide, ours_is_redundant, retry_after_s
from deadpeer.ike.connection import ChildConfig
from deadpeer.ike.exchange import Exchange, own_request
from deadpeer.ike.exchanges.informational import DeleteChild, expire_child
from deadpeer.ike.io import Level
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.ike.selectors import text
from deadpeer.ike.switch import install_in_turn
from deadpeer.values import Now
from deadpeer.wire import ExchangeType, Message, Nonce, Notify, NotifyType, Payload, Protocol, label

MAX_ATTEMPTS = 5
"""How often a new child is tried again after TEMPORARY_FAILURE or INVALID_KE_PAYLOAD."""
REPLACED_LINGER_S = 60.0
"""How long a replaced child SA waits for the peer's DELETE before we send one."""


class CreateChild(Exchange):
    """Ask for a further child SA."""

    exchange_type = ExchangeType.CREATE_CHILD_SA
    own = Own.CREATE_CHILD
    reason = "CREATE_CHILD_SA request"

    def __init__(self, config: ChildConfig, tag: int = 0) -> None:
        self.config = config
        self.child_name = config.name
        self._tag = tag
        self._offer: ChildOffer | None = None
        self._group: Group | None = None
        self._attempts = 0

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        if any(c.name == self.config.name and c.state is ChildState.INSTALLED for c in sa.children.values()):
            # It came up while this waited: by an earlier request, or the peer's.
            sa.env.done(self._tag, True, f"{self.config.name} is up already")
            return None
        return self._request(sa)

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        error = next((n for n in answer.all(Notify) if n.is_error), None)
        if error is not None:
            self._refused(sa, now, error)
            return
        made, nonce = self._offer, answer.first(Nonce)
        try:
            if made is None or nonce is None:
                raise ChildError(NotifyType.INVALID_SYNTAX, "the response lacks a nonce")
            choice, shared = check_answer(made, answer)
        except ChildError as problem:
            self._unusable(sa, now, str(problem))
            return
        if choice.selected.spi in (self.unknown_deleted or ()):
            self._stillborn(sa, now)
            return
        child = install(
            sa, now, choice, made.spi_in, (made.nonce, nonce.data), shared,
            we_initiated=True, policy=self._policy(),
        )  # fmt: skip
        self._succeeded(sa, now, child, (made.nonce, nonce.data))

    def abandoned(self, sa: IkeSa, now: Now, why: str) -> None:
        sa.env.done(self._tag, False, why)

    def _request(self, sa: IkeSa) -> list[Payload]:
        self._attempts += 1
        self.unknown_deleted = set()
        self._offer = self._propose(sa)
        return offer_payloads(self._offer)

    # --- what differs for a rekey ----------------------------------------------------------------

    def _propose(self, sa: IkeSa) -> ChildOffer:
        return propose(sa, self.config, first=False, group=self._group)

    def _policy(self) -> int | None:
        return None

    def _succeeded(self, sa: IkeSa, now: Now, child: ChildSa, nonces: tuple[bytes, bytes]) -> None:
        announce_child(sa, now, child, None)
        sa.env.done(self._tag, True, "child SA up")

    def _stillborn(self, sa: IkeSa, now: Now) -> None:
        """The peer made the child and deleted it before its response reached us."""
        self._failed(sa, now, "the peer has deleted it already")

    def _refused(self, sa: IkeSa, now: Now, error: Notify) -> None:
        if error.type == NotifyType.INVALID_KE_PAYLOAD and self._other_group(error):
            sa.submit(now, self, urgent=True)
        elif error.type == NotifyType.TEMPORARY_FAILURE and self._attempts < MAX_ATTEMPTS:
            sa.submit_later(now, self, retry_after_s(sa.env.entropy))
        else:
            self._failed(sa, now, f"the peer refused the child SA: {label(NotifyType, error.type)}")

    def _unusable(self, sa: IkeSa, now: Now, why: str) -> None:
        # The responder believes that the child exists; without its SPI in use it will expire there.
        if self._offer is not None:
            sa.submit(now, DeleteChild(None, self._offer.spi_in, why))
        self._failed(sa, now, why)

    def _failed(self, sa: IkeSa, now: Now, why: str) -> None:
        sa.env.event(
            "child_failed", "warning", connection=sa.connection.name, child=self.config.name,
            sa=sa.number, reason=why,
        )  # fmt: skip
        sa.env.done(self._tag, False, why)

    def _other_group(self, error: Notify) -> bool:
        wanted = int.from_bytes(error.data, "big") if len(error.data) == 2 else 0
        groups = {g.transform_id: g for g in acceptable_groups(self.config.esp_proposals)}
        if wanted not in groups or groups[wanted] is self._group or self._attempts >= MAX_ATTEMPTS:
            return False
        self._group = groups[wanted]
        return True


class RekeyChild(CreateChild):
    """Replace a child SA by a new one with the same selectors, then delete it."""

    own = Own.REKEY_THIS_CHILD
    reason = "child SA rekey request"

    def __init__(self, child: ChildSa, tag: int = 0) -> None:
        super().__init__(child.config, tag)
        self.child = child
        self._rival: ChildSa | None = None
        self._rival_nonces = (b"", b"")

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        if self.child.number not in sa.children or self.child.state is not ChildState.INSTALLED:
            sa.env.done(self._tag, True, "the child SA is replaced already")
            return None
        if sa.state is not IkeState.ESTABLISHED:
            sa.env.done(self._tag, False, "the IKE SA is being deleted")
            return None
        spi = self.child.spi_in.to_bytes(4, "big")
        return [Notify(NotifyType.REKEY_SA, b"", Protocol.ESP, spi), *self._request(sa)]

    def rival(self, child: ChildSa, nonces: tuple[bytes, bytes]) -> None:
        """The peer rekeyed the same child while our request is under way."""
        self._rival, self._rival_nonces = child, nonces
        child.rival = True

    def _propose(self, sa: IkeSa) -> ChildOffer:
        return propose(sa, self.config, first=False, group=self._group, narrowed=self.child)

    def _policy(self) -> int | None:
        return self.child.policy

    def _succeeded(self, sa: IkeSa, now: Now, child: ChildSa, nonces: tuple[bytes, bytes]) -> None:
        rival = self._decided(sa)
        if rival is not None and ours_is_redundant(nonces, self._rival_nonces):
            # Section 2.8.1: who made the SA with the lowest nonce closes it; the peer closes the old one.
            retire_child(sa, now, child)
            sa.submit(now, DeleteChild(child, child.spi_in, "redundant"), urgent=True)
            sa.env.done(self._tag, True, "child SA rekeyed by the peer")
            return
        replaced(sa, now, self.child, child)
        if rival is not None:
            retire_child(sa, now, rival)
        if self.child.number in sa.children:
            sa.submit(now, DeleteChild(self.child, self.child.spi_in, "rekeyed"), urgent=True)
        sa.env.done(self._tag, True, "child SA rekeyed")

    def _stillborn(self, sa: IkeSa, now: Now) -> None:
        self._decided(sa)
        sa.env.done(self._tag, False, "the peer has deleted the new child SA already")
        # The peer takes the old one to be replaced, and waits for us to delete it.
        expire_child(sa, now, self.child, "deleted by the peer", self.config.close_action)

    def _decided(self, sa: IkeSa) -> ChildSa | None:
        """The peer's new child if it still is there; it is not in doubt any more."""
        rival = self._rival
        if rival is None or rival.number not in sa.children:
            return None
        rival.rival = False
        return rival

    def _refused(self, sa: IkeSa, now: Now, error: Notify) -> None:
        self._decided(sa)
        gone = self.child.number not in sa.children or self.child.state is not ChildState.INSTALLED
        if gone:
            sa.env.done(self._tag, True, "the child SA is replaced already")
        elif error.type == NotifyType.CHILD_SA_NOT_FOUND:
            # The peer lost it (section 2.25): a rekey can't help, a new child does.
            replace_lost(sa, now, self.child, "the peer does not know the child SA")
            sa.env.done(self._tag, True, "the peer had lost the child SA; it is made anew")
        else:
            super()._refused(sa, now, error)

    def _failed(self, sa: IkeSa, now: Now, why: str) -> None:
        super()._failed(sa, now, why)
        self._decided(sa)
        if self.child.number in sa.children and self.child.state is ChildState.INSTALLED:
            self._tag, self._attempts = 0, 0
            sa.submit_later(now, self, 10 * retry_after_s(sa.env.entropy))


class ReplaceChild(CreateChild):
    """Build a child anew that the peer has lost; packets for it wait meanwhile."""

    def __init__(self, lost: ChildSa) -> None:
        super().__init__(lost.config)
        self._lost = lost

    def _propose(self, sa: IkeSa) -> ChildOffer:
        return propose(sa, self.config, first=False, group=self._group, narrowed=self._lost)

    def _policy(self) -> int | None:
        return self._lost.policy


def replace_lost(sa: IkeSa, now: Now, child: ChildSa, reason: str) -> None:
    """The peer has lost `child`, and says so protected: hold its traffic, make it anew, forget the old."""
    sa.env.lifecycle.hold(sa, child)
    sa.drop_child(now, child, reason)
    sa.submit(now, ReplaceChild(child), urgent=True)
    sa.submit(now, DeleteChild(None, child.spi_in, reason))


def respond_create(sa: IkeSa, now: Now, request: Message) -> Sequence[Payload]:
    """The peer asks for a new child."""
    if decide(own_request(sa), Incoming.CREATE_CHILD) is Decision.TEMPORARY_FAILURE:
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    if sa.state is not IkeState.ESTABLISHED:
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    if request.notify(NotifyType.REKEY_SA) is not None:
        return (Notify(NotifyType.INVALID_SYNTAX),)
    made = _make(sa, now, request, None)
    if isinstance(made, Notify):
        return (made,)
    child, payloads, _ = made
    sa.after_reply.append(lambda: announce_child(sa, now, child, None))
    return payloads


def respond_rekey(sa: IkeSa, now: Now, request: Message, rekey: Notify) -> Sequence[Payload]:
    """The peer rekeys a child."""
    child = sa.child_by_outbound(rekey.spi) if len(rekey.spi) == 4 else None
    if child is None and sa.active is not None and sa.active.unknown_deleted is not None:
        # It may be the one whose making our own request waits for: its answer was lost or is late.
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    if child is None:
        return (Notify(NotifyType.CHILD_SA_NOT_FOUND, b"", Protocol.ESP, rekey.spi),)
    decision = decide(own_request(sa, child), Incoming.REKEY_CHILD)
    if decision is Decision.TEMPORARY_FAILURE or child.state is not ChildState.INSTALLED:
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    if sa.state is not IkeState.ESTABLISHED:
        return (Notify(NotifyType.TEMPORARY_FAILURE),)
    made = _make(sa, now, request, child)
    if isinstance(made, Notify):
        return (made,)
    new, payloads, nonces = made
    active = sa.active
    if decision is Decision.PROCEED_AS_RIVAL and isinstance(active, RekeyChild):
        active.rival(new, nonces)
    sa.after_reply.append(lambda: replaced(sa, now, child, new))
    return payloads


def replaced(sa: IkeSa, now: Now, old: ChildSa, new: ChildSa) -> None:
    """`new` serves the policy from now on; `old` waits to be deleted."""
    old.successor = new.number
    retire_child(sa, now, old)
    announce_child(sa, now, new, old)


def retire_child(sa: IkeSa, now: Now, child: ChildSa) -> None:
    """A child is replaced: it carries what is under way until it is deleted, by us if need be."""
    child.state = ChildState.REKEYED
    timers, owner = sa.env.timers, ("child", child.number)
    timers.cancel_all(owner)

    def overdue(then: Now) -> None:
        found = sa.env.table.child(child.number)
        if found is not None:
            found[0].submit(then, DeleteChild(child, child.spi_in, "replaced, and the peer sent no DELETE"))

    timers.arm(owner, "replaced child SA", now.after(REPLACED_LINGER_S), overdue)


def announce_child(sa: IkeSa, now: Now, child: ChildSa, old: ChildSa | None) -> None:
    """Report a child, and tell the extensions."""
    if child.number not in sa.children:
        return
    sa.env.event(
        "child_up" if old is None else "child_rekeyed",
        connection=sa.connection.name,
        child=child.name,
        sa=sa.number,
        number=child.number,
        suite=child.suite.name,
        spi_in=f"{child.spi_in:08x}",
        spi_out=f"{child.spi_out:08x}",
        local_ts=[text(s) for s in child.local_ts],
        remote_ts=[text(s) for s in child.remote_ts],
    )
    sa.env.signal(now, ext.ChildUp(sa, child, old.number if old is not None else None))
    if old is None and child.number in sa.children:
        _give_up_double(sa, now, child)


def _give_up_double(sa: IkeSa, now: Now, new: ChildSa) -> None:
    """Both sides asked for the same child: as of two rekeyings (section 2.8.1), who made the one with the
    lowest nonce deletes it. Both sides see both, in whatever order; only the one that made it acts."""
    for other in list(sa.children.values()):
        same = (other.policy, other.local_ts, other.remote_ts) == (new.policy, new.local_ts, new.remote_ts)
        if not same or other.ours == new.ours or other.state is not ChildState.INSTALLED:
            continue
        ours, theirs = (new, other) if new.ours else (other, new)
        if ours.lowest_nonce < theirs.lowest_nonce and ours.state is ChildState.INSTALLED:
            sa.env.event("child_redundant", connection=sa.connection.name, child=ours.name, sa=sa.number)
            ours.successor = theirs.number
            retire_child(sa, now, ours)
            sa.submit(now, DeleteChild(ours, ours.spi_in, "redundant"))


def _make(
    sa: IkeSa, now: Now, request: Message, rekeyed: ChildSa | None
) -> tuple[ChildSa, Sequence[Payload], tuple[bytes, bytes]] | Notify:
    """The responder's part of both kinds: choose, install, answer."""
    nonce_i = request.first(Nonce)
    try:
        if nonce_i is None:
            raise ChildError(NotifyType.INVALID_SYNTAX, "the request lacks a nonce")
        if len(sa.children) >= (MAX_CHILDREN if rekeyed is None else 2 * MAX_CHILDREN):
            raise ChildError(NotifyType.NO_ADDITIONAL_SAS, f"there are {len(sa.children)} child SAs already")
        choice, key_pair, shared = choose(sa, request, first=False, rekeyed=rekeyed)
    except ChildError as problem:
        _refusal(sa, problem)
        return problem.notify
    nonce_r = sa.env.entropy.octets(NONCE_OCTETS)
    spi_in = sa.env.esp_spi()
    nonces = (nonce_i.data, nonce_r)
    if rekeyed is None:
        child = install_in_turn(sa, now, choice, spi_in, nonces, shared)
    else:
        child = install(
            sa, now, choice, spi_in, nonces, shared,
            we_initiated=False, outbound_now=False, policy=rekeyed.policy,
        )  # fmt: skip
    return child, answer_payloads(choice, spi_in, nonce_r, key_pair), nonces


def _refusal(sa: IkeSa, problem: ChildError) -> None:
    """Report a child that we refuse. Another group asked for is no failure: the peer comes again with it."""
    level: Level = "warning"
    kind = "child_failed"
    if problem.notify.type == NotifyType.INVALID_KE_PAYLOAD:
        kind, level = "child_other_group", "debug"
    sa.env.event(kind, level, connection=sa.connection.name, sa=sa.number, reason=str(problem))
