"""IKE SAs that we are setting up: what each attempt is for, and its rounds.

An attempt is one wish, these children in a new IKE SA; a round is one IKE SA that may fulfil it. A further
round begins when the peer seems to have lost the one before between IKE_SA_INIT and IKE_AUTH:

- The peer says so: N(INVALID_IKE_SPI) without protection, from the peer's address and port, with the SPIs,
  the exchange type and the message ID of the IKE_AUTH request that waits. Nobody who does not see our
  packets can know the SPIs, but nothing in it is authenticated: it is a hint. IKE_AUTH is sent once more,
  and if no protected answer comes within a retransmission interval, the next round begins. Who is on the
  path can cause `MAX_DENIALS` rounds of an attempt, no more; after that only time ends it.
- The peer says nothing. Only while recovering (rebuilds are) that ends a round early: the peer has just
  restarted, or is suspected of it, and may have done so once more. Elsewhere silence may be a peer that asks
  somebody else about us, and has time until `init_timeout`. The patience doubles with each round, for the
  peer may be busy: everybody comes back to a gateway that has restarted.

The rounds before are not given up, they only are not repeated: whichever authenticates first is the one that
stays. The others are closed with one DELETE that nobody waits for, since the peer may have authenticated
them, its answer lost; it knows which of them it has. So an answer that comes late, and a forged hint, break
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deadpeer.ike import retransmission
from deadpeer.ike.connection import ChildConfig, Connection
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchanges import init, resume
from deadpeer.ike.rtt import INITIAL_RTO_S, RttEstimator
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import NS_PER_S, Address, Datagram, Now
from deadpeer.wire import ExchangeType, Message, NotifyType

MAX_DENIALS = 3
"""So many rounds of one attempt begin because of what is not authenticated."""
SILENT_PATIENCE_S = 2.0
SILENT_PATIENCE_INTERVALS = 6
"""While recovering, IKE_AUTH waits for the longer of the two: seconds, first retransmission intervals.

Long enough for a signature on a slow machine and for losses in a row, short beside `init_timeout`."""

DENIED = "setup denied"
"""The timer that waits for a protected answer after a denial."""


@dataclass(frozen=True, slots=True)
class Route:
    """From where and to where a connection is initiated; `rtt_s` is what is known of the round trip, `there`:
    the peer has just spoken."""

    local: Address
    remote: Address
    rtt_s: float | None = None
    there: bool = False


@dataclass(slots=True)
class Attempt:
    """What shall come up with a new IKE SA, and whether to try again if it fails."""

    connection: Connection
    keep_trying: bool
    recovering: bool
    route: Route
    first: ChildConfig | None
    tag: int
    beside: IkeSa | None
    """The SA that a rebuild shall replace."""
    further: list[tuple[ChildConfig, int]]
    begun_ns: int
    rounds: list[IkeSa] = field(default_factory=list)
    """The IKE SAs in setup, the latest one last. Never empty."""
    denials: int = 0

    @property
    def latest(self) -> IkeSa:
        """The round that is being worked on."""
        return self.rounds[-1]

    @property
    def authenticating(self) -> bool:
        """Whether an IKE_AUTH request is unanswered: the peer may hold that SA."""
        return any(sa.state is IkeState.AUTHENTICATING for sa in self.rounds)

    @property
    def children(self) -> list[ChildConfig]:
        """All children that shall come up."""
        return [c for c in (self.first, *(c for c, _ in self.further)) if c is not None]


class Attempts:
    """All attempts under way, by the number of each of their rounds."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._attempts: dict[int, Attempt] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._attempts)

    def of(self, sa: IkeSa) -> Attempt | None:
        """The attempt that this IKE SA is a round of."""
        return self._attempts.get(sa.number)

    def beside(self, old_number: int) -> Attempt | None:
        """The attempt that shall replace the IKE SA with this number."""
        for attempt in self._attempts.values():
            if attempt.beside is not None and attempt.beside.number == old_number:
                return attempt
        return None

    # --- rounds ----------------------------------------------------------------------------------

    def begin(
        self,
        now: Now,
        connection: Connection,
        children: Sequence[ChildConfig],
        route: Route,
        *,
        tag: int,
        keep_trying: bool,
        recovering: bool,
        beside: IkeSa | None,
    ) -> None:
        """Initiate a new IKE SA, with these children. Answers the command `tag` if there is no room."""
        env = self._env
        if self._full():
            env.done(tag, False, f"there are {len(env.table)} IKE SAs already (max_ike_sas)")
            return
        env.expect(tag, len(children))
        attempt = Attempt(
            connection=connection,
            keep_trying=keep_trying,
            recovering=recovering,
            route=route,
            first=children[0] if children else None,
            tag=tag,
            beside=beside,
            further=[(c, tag) for c in children[1:]],
            begun_ns=now.mono_ns,
        )
        fresh = not recovering and not env.table.of_connection(connection.name)
        contact = connection.initial_contact and fresh
        self._begin_round(now, attempt, recovering=recovering, contact=contact, rtt_s=route.rtt_s)

    def denied(self, now: Now, sa: IkeSa, message: Message, datagram: Datagram) -> bool:
        """An unprotected message names the SPIs of `sa`: True if it was about a setup of ours."""
        attempt, waiting = self._attempts.get(sa.number), sa.send.outstanding
        if (
            attempt is None
            or sa.state is not IkeState.AUTHENTICATING
            or not message.is_response
            or message.notify(NotifyType.INVALID_IKE_SPI) is None
        ):
            return False
        env = self._env
        if (
            attempt.latest is not sa
            or waiting is None
            or message.message_id != waiting.message_id
            or message.exchange != ExchangeType.IKE_AUTH
            or datagram.remote != sa.remote
        ):
            env.drop("INVALID_IKE_SPI that answers no IKE_AUTH")
            return True
        if sa.setup is not None:
            sa.setup.last_error = "INVALID_IKE_SPI"
        if attempt.denials >= MAX_DENIALS:
            env.drop("INVALID_IKE_SPI to IKE_AUTH once too often")
        elif env.timers.armed(sa.number, DENIED) is None:
            self._ask_once_more(now, sa, attempt)
        return True

    def impatient(self, now: Now, sa: IkeSa) -> bool:
        """A retransmission of IKE_AUTH is due: True if the next round begins instead."""
        attempt, waiting = self._attempts.get(sa.number), sa.send.outstanding
        if attempt is None or waiting is None or not sa.recovering:
            return False
        interval_s = max(sa.rto_s, retransmission.pace_s(sa))
        patience_s = max(SILENT_PATIENCE_S, SILENT_PATIENCE_INTERVALS * interval_s)
        patience_s *= 2.0 ** (len(attempt.rounds) - 1)
        if now.mono_ns - waiting.first_sent_ns < patience_s * NS_PER_S:
            return False
        return self._next_round(now, sa, "IKE_AUTH is not answered")

    # --- what became of them ---------------------------------------------------------------------

    def established(self, now: Now, sa: IkeSa) -> Attempt | None:
        """This round is up: the others are closed."""
        attempt = self._attempts.get(sa.number)
        if attempt is not None:
            self._conclude(now, attempt, sa, "another setup with the peer was faster")
        return attempt

    def failed(self, now: Now, sa: IkeSa, why: str) -> Attempt | None:
        """This round ended without success. Returns its attempt if that has ended with it."""
        attempt = self._attempts.pop(sa.number, None)
        if attempt is None:
            return None
        if attempt.latest is not sa:
            attempt.rounds.remove(sa)
            return None
        self._conclude(now, attempt, sa, why)
        return attempt

    # --- helpers ---------------------------------------------------------------------------------

    def _full(self) -> bool:
        return len(self._env.table) >= self._env.config.max_ike_sas

    def _ask_once_more(self, now: Now, sa: IkeSa, attempt: Attempt) -> None:
        attempt.denials += 1
        self._env.count("unprotected error: INVALID_IKE_SPI")
        self._env.event(
            "hint", "notice", connection=sa.connection.name, sa=sa.number,
            hint="unprotected error to IKE_AUTH", detail="INVALID_IKE_SPI", source=str(sa.remote),
        )  # fmt: skip
        at = now.after(sa.rto_s)
        # Armed first, so that it comes before the retransmission of the same moment.
        self._env.timers.arm(sa.number, DENIED, at, lambda then: self._denied_still(then, sa))
        sa.retransmit(now, "retransmission: unprotected error", restart=True)

    def _denied_still(self, now: Now, sa: IkeSa) -> None:
        self._next_round(now, sa, "the peer does not know its SPI")

    def _next_round(self, now: Now, sa: IkeSa, why: str) -> bool:
        attempt = self._attempts.get(sa.number)
        if attempt is None or attempt.latest is not sa or self._full():
            return False
        self._env.timers.cancel(sa.number, "retransmission")
        new = self._begin_round(
            now, attempt, recovering=sa.recovering, contact=sa.initial_contact, rtt_s=sa.rtt_s, why=why
        )
        if new.initial_contact:
            # The new one is to say that there is no other (and the peer drops this one, if it has it).
            attempt.rounds.remove(sa)
            del self._attempts[sa.number]
            sa.close(now, why)
        return True

    def _begin_round(
        self,
        now: Now,
        attempt: Attempt,
        *,
        recovering: bool,
        contact: bool,
        rtt_s: float | None,
        why: str = "",
    ) -> IkeSa:
        env, route, connection = self._env, attempt.route, attempt.connection
        sa = IkeSa(
            env,
            now,
            connection,
            initiator=True,
            own_spi=env.ike_spi(),
            peer_spi=bytes(8),
            local=route.local,
            remote=route.remote,
            rtt=RttEstimator(rtt_s),
        )
        # All rounds together have the time of one.
        sa.created_ns = attempt.begun_ns
        sa.recovering, sa.initial_contact = recovering, contact
        env.table.add(sa)
        attempt.rounds.append(sa)
        self._attempts[sa.number] = attempt
        self._announce(attempt, sa, why)
        offers = (extension.resume_offer(now, connection, attempt.beside) for extension in env.extensions)
        offer = next((offer for offer in offers if offer is not None), None)
        if offer is not None:
            resume.initiate(sa, now, resume.Plan(offer, attempt.first, attempt.tag))
        else:
            init.initiate(sa, now, attempt.first, attempt.tag)
        if route.there:
            give_time(sa)
            retransmission.arm(sa, now)
        return sa

    def _announce(self, attempt: Attempt, sa: IkeSa, why: str) -> None:
        name, remote = attempt.connection.name, str(sa.remote)
        if sa is attempt.rounds[0]:
            self._env.event(
                "initiate", connection=name, sa=sa.number, remote=remote, recovering=sa.recovering
            )
        else:
            self._env.event("initiate_again", connection=name, sa=sa.number, remote=remote, reason=why)

    def _conclude(self, now: Now, attempt: Attempt, last: IkeSa, why: str) -> None:
        """The attempt is over: no round of it is left but `last`, which may be up."""
        for sa in attempt.rounds:
            self._attempts.pop(sa.number, None)
            self._env.timers.cancel(sa.number, DENIED)
        for sa in attempt.rounds:
            if sa is not last and not sa.is_closed():
                if sa.state is IkeState.AUTHENTICATING:
                    sa.say_farewell()
                sa.close(now, why)


def give_time(sa: IkeSa) -> None:
    """The peer has just spoken: it has time for a key exchange before it is asked again, as much as one that
    nothing is known of. Longer than for a liveness check, from which the round trip is known; where hundreds
    come back at once, what is asked twice is answered later."""
    if sa.setup is not None:
        sa.setup.pace_s = max(INITIAL_RTO_S, sa.setup.pace_s)
