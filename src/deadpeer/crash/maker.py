"""The token maker (RFC 6290): hands our tokens to peers under protection, and keeps them recoverable.

Tokens ride in IKE_AUTH (both sides) and in the responder's answer to an IKE rekey; the initiator of a
rekey, who learns the new SPIs only from that answer, sends its token at once after. An address-bound
token is replaced when the taker's address moves.

Rotation. Up to three older generations of the secret are kept. A rotation that would drop one first
renews, with the current secret, the token of every SA whose peer holds one of the generation about to go;
when each of them has acknowledged (or its SA is gone) the new secret is stored and becomes the current
one. Until then a further rotation is refused, with the number of peers that it waits for. A crash in
between drops nothing: the old generations stay, and the command can be given again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from deadpeer.crash import boot
from deadpeer.crash.boot import SECRET_SIZE, BootState, Generation
from deadpeer.crash.options import CrashOptions, TokenMethod, qcd_of
from deadpeer.crash.tokens import MakerRole, make_token, token_notify
from deadpeer.crypto import Entropy
from deadpeer.ike.extension import (
    AddressChanged,
    Core,
    Extension,
    RequestAnswered,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    SaView,
    Signal,
    Slot,
)
from deadpeer.ike.io import ExtensionCommand
from deadpeer.values import Now
from deadpeer.wire import Notify

HANDOVER = "qcd token"
"""The reason of every INFORMATIONAL that carries one of our tokens; its answer is known by it."""

FIRST_SWEEP = 64


class TokenMaker(Extension):
    """Makes tokens on connections whose QCD roles are both or maker. Command: qcd rotate."""

    name = "qcd"
    observes = (SaEstablished, SaRekeyed, SaClosed, AddressChanged, RequestAnswered)

    def __init__(self, state: BootState, entropy: Entropy, options: CrashOptions) -> None:
        self.state = state
        self._entropy = entropy
        self._at_once = options.renewals_at_once
        self._issued: dict[int, _Issued] = {}
        self._sweep_at = FIRST_SWEEP
        self._rotation: _Rotation | None = None
        self._shared = False
        self._methods: set[TokenMethod] = set()

    @property
    def generations(self) -> Sequence[Generation]:
        """The secrets that tokens of dead SAs may have been made with, newest first."""
        return self.state.generations

    @property
    def methods(self) -> set[TokenMethod]:
        """The methods that tokens were made with in this life (connections can be added by a reload)."""
        return self._methods

    def handed(self, number: int) -> int | None:
        """The generation of the token that the taker of this SA holds; None: we made none for it."""
        issued = self._issued.get(number)
        return None if issued is None else issued.delivered or issued.latest

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        generations = len(self.state.generations)
        core.event("boot", "notice", epoch=self.state.epoch, generations=generations)

    def notifies(
        self,
        now: Now,
        slot: Slot,
        sa: SaView,
        *,
        response: bool,
    ) -> Sequence[Notify]:
        """RFC 6290 sections 4.2 and 4.3: in AUTH from both sides, in a rekey from its responder."""
        if not qcd_of(sa.connection).makes:
            return ()
        if slot is Slot.AUTH or (slot is Slot.IKE_REKEY and response):
            issued = self._issued[sa.number] = _Issued(sa)
            issued.delivered = self.state.current.number
            return (self._fresh(issued),)
        return ()

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case SaEstablished(sa=sa):
                self._forget_stillborn()
                self._refresh(now, sa)
            case SaRekeyed(old=old, new=new, initiated=initiated):
                if initiated and qcd_of(new.connection).makes:
                    self._inform(now, self._issued.setdefault(new.number, _Issued(new)))
                self._settled(now, old.number)
            case AddressChanged(sa=sa):
                self._refresh(now, sa)
            case RequestAnswered(sa=sa, reason=reason):
                if reason == HANDOVER:
                    self._delivered(now, sa)
            case SaClosed(sa=sa):
                self._issued.pop(sa.number, None)
                self._settled(now, sa.number)
            case _:
                pass

    def command(self, now: Now, command: ExtensionCommand) -> bool:
        if command.extension != self.name:
            return False
        if self._shared:
            self.core.done(command.tag, False, "the members of the cluster rotate the secret together")
        elif command.verb != "rotate":
            self.core.done(command.tag, False, f"qcd has no command '{command.verb}', only 'rotate'")
        elif self._rotation is not None:
            left = len(self._rotation)
            self.core.done(command.tag, False, f"a rotation is waiting for {left} peers to take a new token")
        else:
            self._begin_rotation(now, command.tag)
        return True

    def counters(self) -> dict[str, int]:
        return {
            "qcd.tokens_made": len(self._issued),
            "qcd.generations": len(self.state.generations),
            "qcd.rotation_waits_for": 0 if self._rotation is None else len(self._rotation),
        }

    # --- a secret that others share --------------------------------------------------------------

    def share(self) -> None:
        """The secrets are those of a cluster, and come by `adopt`."""
        self._shared = True

    def adopt(
        self, now: Now, generations: Sequence[Generation], going: int | None, then: Callable[[], None]
    ) -> None:
        """Make tokens with the first of these secrets, and know those of all.

        Tokens of the generation `going` and of older ones are renewed, a few at a time; `then` is called
        when each taker has its new one or is gone.
        """
        self.state = replace(self.state, generations=tuple(generations))
        self._renew(now, going, then)

    # --- tokens ----------------------------------------------------------------------------------

    def _fresh(self, issued: _Issued) -> Notify:
        """The notify with the token of today: current secret, current address of the taker."""
        sa = issued.sa
        method = qcd_of(sa.connection).method
        issued.taker = sa.remote.host
        self._methods.add(method)
        role = MakerRole.INITIATOR if sa.initiator else MakerRole.RESPONDER
        taker = issued.taker if method == "spi-address" else None
        token = make_token(self.state.current.secret, role, sa.spi_i, sa.spi_r, taker)
        self.core.count("token_sent")
        self.core.event(
            "token_sent",
            connection=sa.connection.name,
            sa=sa.number,
            generation=self.state.current.number,
            method=method,
        )
        return token_notify(token)

    def _inform(self, now: Now, issued: _Issued) -> None:
        issued.under_way += (self.state.current.number,)
        self.core.inform(now, issued.sa, (self._fresh(issued),), HANDOVER)

    def _refresh(self, now: Now, sa: SaView) -> None:
        """Replace a token that could not be made again: the address moved, or its generation is gone."""
        issued = self._issued.get(sa.number)
        if issued is None or not sa.established:
            return
        moved = qcd_of(sa.connection).method == "spi-address" and issued.taker != sa.remote.host
        if moved or not self.state.has(issued.latest):
            self._inform(now, issued)

    def _delivered(self, now: Now, sa: SaView) -> None:
        issued = self._issued.get(sa.number)
        if issued is None or not issued.under_way:
            return
        issued.delivered, *rest = issued.under_way
        issued.under_way = tuple(rest)
        self._refresh(now, sa)
        self._settled(now, sa.number)

    def _forget_stillborn(self) -> None:
        """Drop what was made for SAs that never came up, should the core not have said that they closed.

        Looked for whenever there are twice as many as after the last look: a few steps for each new SA.
        """
        if len(self._issued) < self._sweep_at:
            return
        living = {sa.number for sa in self.core.views()}
        self._issued = {number: issued for number, issued in self._issued.items() if number in living}
        self._sweep_at = max(FIRST_SWEEP, 2 * len(self._issued))

    # --- rotation --------------------------------------------------------------------------------

    def _begin_rotation(self, now: Now, tag: int) -> None:
        self._renew(now, self.state.doomed, lambda: self._rotate(tag))

    def _renew(self, now: Now, going: int | None, then: Callable[[], None]) -> None:
        waiting = deque(self._holders_of(going))
        self._rotation = _Rotation(then, waiting)
        if waiting:
            self.core.event("rotation_waits", renewals=len(waiting))
        self._advance_rotation(now)

    def _holders_of(self, going: int | None) -> Iterator[int]:
        if going is None:
            return
        for number, issued in self._issued.items():
            # An SA that a rekey has replaced goes in a moment; one that comes up is refreshed then.
            if issued.sa.established and issued.latest <= going:
                yield number

    def _settled(self, now: Now, number: int) -> None:
        if self._rotation is not None and self._rotation.settle(number):
            self._advance_rotation(now)

    def _advance_rotation(self, now: Now) -> None:
        rotation = self._rotation
        if rotation is None:
            return
        while rotation.waiting and len(rotation.renewing) < self._at_once:
            number = rotation.waiting.popleft()
            issued = self._issued.get(number)
            if issued is not None and issued.sa.established:
                rotation.renewing.add(number)
                self._inform(now, issued)
        if not rotation.renewing:
            self._rotation = None
            rotation.then()

    def _rotate(self, tag: int) -> None:
        dropped = self.state.doomed
        self.state = self.state.rotated(self._entropy.octets(SECRET_SIZE))
        # Stored before any token made with it can leave (RFC 6290 section 4.4; the core keeps the order).
        self.core.persist(boot.STATE_NAME, boot.encode(self.state))
        self.core.event("secret_rotated", "notice", generation=self.state.current.number, dropped=dropped)
        kept = len(self.state.generations) - 1
        self.core.done(tag, True, f"generation {self.state.current.number} is current, {kept} older kept")


@dataclass(slots=True)
class _Issued:
    """What the taker of an SA holds: `delivered` generation, `under_way` those of unanswered informs, first
    things first. There is one for each SA: an empty deque alone would take 760 octets."""

    sa: SaView
    taker: str = ""
    delivered: int = 0
    under_way: tuple[int, ...] = ()

    @property
    def latest(self) -> int:
        """The generation that the taker holds, or will hold when all that is under way has arrived."""
        return self.under_way[-1] if self.under_way else self.delivered


@dataclass(slots=True)
class _Rotation:
    """A rotation in progress: SAs by number whose token is to be, or is being, renewed."""

    then: Callable[[], None]
    waiting: deque[int]
    renewing: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.renewing)

    def settle(self, number: int) -> bool:
        """The SA has its new token or is gone. True if something can go on."""
        if number not in self.renewing:
            return False
        self.renewing.discard(number)
        return True
