"""Which SAs ought to be there, and what is done about it: start, trap, try again, recover after a proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deadpeer.ike import extension as ext
from deadpeer.ike import selectors
from deadpeer.ike.attempts import Attempt, Attempts, Route, give_time
from deadpeer.ike.child import ChildSa, ChildState
from deadpeer.ike.collision import Own
from deadpeer.ike.connection import ChildConfig, Connection
from deadpeer.ike.environment import Environment
from deadpeer.ike.evidence import Verdict
from deadpeer.ike.exchanges.child import CreateChild
from deadpeer.ike.exchanges.informational import DeleteIke
from deadpeer.ike.matching import local_host
from deadpeer.ike.sa import IkeSa
from deadpeer.plane.model import Acquire, InstallTrap, RemoveTrap
from deadpeer.values import Address, Datagram, Now
from deadpeer.wire import Message

MAX_RETRY_S = 60.0


class Recovery:
    """Knows today's connections and sees to it that what they ask for is there."""

    def __init__(self, env: Environment, connections: Sequence[Connection]) -> None:
        self._env = env
        self.connections: dict[str, Connection] = {c.name: c for c in connections}
        self.stopping = False
        self._attempts = Attempts(env)
        self._tries: dict[str, int] = {}
        self._held: dict[int, Route] = {}
        """Policies whose packets wait because their SA was lost, and where their peer was."""
        self._trapped: set[int] = set()
        """Policies with `start_action` trap."""

    # --- what the configuration asks for ---------------------------------------------------------

    def start(self, now: Now) -> None:
        """Install the traps and start the connections that the configuration says to start."""
        for connection in self.connections.values():
            self._start(now, connection)

    def reload(self, now: Now, connections: Iterable[Connection]) -> None:
        """Use these connections from now on; living SAs keep what they were made with."""
        old, self.connections = self.connections, {c.name: c for c in connections}
        for name, connection in old.items():
            today = self.connections.get(name)
            for child in connection.children:
                kept = today.child(child.name) if today is not None else None
                if kept is None or kept.start_action != "trap":
                    self._untrap(self._env.policy(name, child.name))
            self.release(name, keeping=[c.name for c in today.children] if today is not None else ())
            if today is None:
                self.forget(name)
                for sa in self._env.table.of_connection(name):
                    if self._attempts.of(sa) is not None:
                        self.give_up(now, sa, f"connection {name} is not configured any more")
        for connection in self.connections.values():
            if connection != old.get(connection.name):
                self._start(now, connection)

    def forget(self, name: str) -> None:
        """Stop trying to bring this connection up."""
        self._tries.pop(name, None)
        self._env.timers.cancel(("connection", name), "try again")

    def release(self, name: str, keeping: Sequence[str] = ()) -> None:
        """Nothing waits any more for children of this connection, but for those of these names."""
        for policy in list(self._held):
            key = self._env.policy_of(policy)
            if key is not None and key[0] == name and key[1] not in keeping:
                self._unhold(policy)

    def holds(self, policy: int) -> bool:
        """Whether packets wait, or may come to wait, for a child of this policy."""
        return policy in self._held or policy in self._trapped

    def give_up(self, now: Now, sa: IkeSa, why: str) -> None:
        """Close an IKE SA that we are setting up, and do not try again."""
        if sa.is_closed():
            return
        attempt = self._attempts.failed(now, sa, why)
        sa.close(now, why)
        if attempt is not None:
            self._tell_failure(now, attempt, why)

    # --- bringing up -----------------------------------------------------------------------------

    def bring_up(
        self,
        now: Now,
        connection: Connection,
        children: Sequence[ChildConfig],
        *,
        tag: int = 0,
        keep_trying: bool = False,
        recovering: bool = False,
        route: Route | None = None,
    ) -> None:
        """Have these children up: in the established IKE SA if there is one, else in a new one."""
        if self.stopping:
            self._env.done(tag, False, "the gateway is stopping")
            return
        sa = self._usable(connection, route)
        if sa is not None and sa.established:
            self._env.expect(tag, len(children))
            for child in children:
                self._add_child(now, sa, child, tag)
            return
        attempt = self._attempts.of(sa) if sa is not None else None
        if attempt is not None:
            self._env.expect(tag, len(children))
            attempt.further += [(c, tag) for c in children if c not in attempt.children or tag]
            attempt.keep_trying = attempt.keep_trying or keep_trying
            return
        route = route or self._route(connection)
        if route is None:
            lacks = "single remote address to initiate to"
            if connection.remote_host is not None:
                lacks = "local address to initiate from: none of ours fits local_addrs and the peer"
            why = f"connection {connection.name} has no {lacks}"
            self._env.event("initiate_failed", "warning", connection=connection.name, reason=why)
            self._env.done(tag, False, why)
            return
        self._attempts.begin(
            now, connection, children, route,
            tag=tag, keep_trying=keep_trying, recovering=recovering, beside=None,
        )  # fmt: skip

    def acquire(self, now: Now, report: Acquire) -> None:
        """A packet waits for a child of this policy."""
        key = self._env.policy_of(report.policy)
        connection = self.connections.get(key[0]) if key is not None else None
        child = connection.child(key[1]) if connection is not None and key is not None else None
        if connection is None or child is None:
            self._env.drop("acquire for a policy without a connection")
            return
        held = self._held.get(report.policy)
        self._env.event(
            "acquire", "debug", connection=connection.name, child=child.name, packet=report.summary
        )
        self.bring_up(now, connection, [child], keep_trying=True, recovering=held is not None, route=held)

    # --- what became of an SA --------------------------------------------------------------------

    def established(self, now: Now, sa: IkeSa) -> None:
        """An IKE SA is up: further children follow, and retries of its connection end."""
        self.forget(sa.connection.name)
        attempt = self._attempts.established(now, sa)
        if attempt is None:
            return
        for child, tag in attempt.further:
            self._add_child(now, sa, child, tag, attempt.beside)
        if attempt.beside is not None:
            self._rebuilt(now, attempt.beside, sa)

    def child_installed(self, child: ChildSa) -> None:
        """A policy is served again: what waited has gone, the hold ends."""
        self._unhold(child.policy)

    def setup_failed(self, now: Now, sa: IkeSa, why: str) -> None:
        """An IKE SA that we initiated did not come up."""
        attempt = self._attempts.failed(now, sa, why)
        if attempt is None or self._tell_failure(now, attempt, why):
            return
        name = sa.connection.name
        connection = self.connections.get(name)
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        limit = connection.keyingtries if connection is not None else 1
        if connection is None or not attempt.keep_trying or self.stopping or 0 < limit <= tries:
            self.forget(name)
            return
        names = {c.name for c in attempt.children}

        def again(then: Now) -> None:
            today = self.connections.get(name)
            if today is not None:
                self.bring_up(
                    then,
                    today,
                    [c for c in today.children if c.name in names],
                    keep_trying=True,
                    recovering=attempt.recovering,
                    route=attempt.route,
                )

        cap = self._env.config.retry_cap_s if attempt.recovering else MAX_RETRY_S
        delay = min(2.0 ** min(tries - 1, 10), cap)
        self._env.timers.arm(("connection", name), "try again", now.after(delay), again)

    def condemned(self, now: Now, sa: IkeSa, verdict: Verdict) -> None:
        """The peer has lost this SA: drop it silently; hold its traffic and recover as configured."""
        lost = [c for c in sa.children.values() if c.state is not ChildState.REKEYED]
        held = [c for c in lost if c.config.dpd_action != "clear"]
        again = [c for c in lost if c.config.dpd_action == "restart"]
        # If a new SA is the proof the peer may live, and still sends on the old one what is under way.
        linger_s = self._env.config.child_linger_s
        there = verdict.proof.spoken
        self._close(now, sa, f"condemned: {verdict.proof.kind}", held, again, linger_s, there=there)

    def ended(self, now: Now, sa: IkeSa, why: str) -> None:
        """An established IKE SA ends, not by our wish: close it, then do what `close_action` says."""
        lost = [c for c in sa.children.values() if c.state is ChildState.INSTALLED]
        held = [c for c in lost if c.config.close_action != "none"]
        self._close(now, sa, why, held, [c for c in lost if c.config.close_action == "start"])

    def child_lost(self, now: Now, sa: IkeSa, child: ChildSa, action: str) -> None:
        """A child was closed by the peer, or expired; `action` is a close_action."""
        if self.stopping or action == "none" or self._served_elsewhere(child):
            return
        self.hold(sa, child)
        if action == "start":
            self._again(now, sa.connection, [child], Route(sa.local, sa.remote, sa.rtt_s))

    def hold(self, sa: IkeSa, child: ChildSa) -> None:
        """Packets of the child's policy wait from now on, and ask for a new child."""
        if child.policy not in self._trapped and child.policy not in self._held:
            self._env.plane(InstallTrap(child.policy, child.local_ts, child.remote_ts))
        self._held[child.policy] = Route(sa.local, sa.remote, sa.rtt_s)

    # --- beside a living SA ----------------------------------------------------------------------

    def rebuild(self, now: Now, old: IkeSa, reason: str, host: str | None = None) -> bool:
        """Build a new IKE SA beside `old`, which stands until somebody proves it dead, with the same peer or,
        if `host` is given, with the one at that address."""
        today = self.connections.get(old.connection.name)
        if today is None or self.stopping or self._attempts.beside(old.number) is not None:
            return False
        names = {*old.children_due, *(c.name for c in old.children.values())}
        children = [c for c in today.children if c.name in names]
        route = self._known_route(today, Route(old.local, old.remote, old.rtt_s))
        if host is not None:
            route = Route(route.local, Address(host, today.remote_port), route.rtt_s)
        self._env.event("rebuild", "notice", connection=today.name, sa=old.number, reason=reason)
        self._attempts.begin(
            now, today, children, route, tag=0, keep_trying=False, recovering=True, beside=old
        )
        return self._attempts.beside(old.number) is not None

    def abandon_rebuild(self, now: Now, old_number: int, reason: str) -> None:
        """Give up the SA that is being built beside this one, unless the peer may have it already."""
        attempt = self._attempts.beside(old_number)
        if attempt is None:
            return
        if attempt.authenticating:
            # Our IKE_AUTH may have arrived: the peer sends on the new child SA from then on, and has
            # dropped the old IKE SA if the new one is resumed. `Rebuilt` follows.
            self._env.event("rebuild_goes_on", sa=old_number, reason=reason)
            return
        new = attempt.latest
        self._attempts.failed(now, new, reason)
        new.close(now, reason)

    def carry_over(self, now: Now, old_number: int, new_number: int) -> None:
        """Have what `old` carries up in `new` as well: where both are established, with the same peer."""
        old, new = self._env.table.get(old_number), self._env.table.get(new_number)
        today = self.connections.get(new.connection.name) if new is not None else None
        if old is None or new is None or today is None or self.stopping:
            return
        names = {c.name for c in old.children.values() if c.state is ChildState.INSTALLED}
        for config in today.children:
            if config.name in names:
                self._add_child(now, new, config, 0, old)

    def hurry_rebuild(self, now: Now, old_number: int, reason: str) -> None:
        """The peer may be back: what the new SA waits for goes out again, with the shortest backoff."""
        attempt = self._attempts.beside(old_number)
        if attempt is not None:
            self._hurry(now, attempt.latest, reason)

    def denied(self, now: Now, sa: IkeSa, message: Message, datagram: Datagram) -> bool:
        """An unprotected message names the SPIs of `sa`: True if it was about a setup of ours."""
        return self._attempts.denied(now, sa, message, datagram)

    def impatient(self, now: Now, sa: IkeSa) -> bool:
        """A retransmission of IKE_AUTH is due: True if a new IKE_SA_INIT went out instead."""
        return self._attempts.impatient(now, sa)

    def _hurry(self, now: Now, new: IkeSa, reason: str) -> None:
        new.recovering = True
        new.retransmit(now, f"retransmission: {reason}", restart=True)

    def _rebuilt(self, now: Now, old: IkeSa, new: IkeSa) -> None:
        if old.is_closed():
            return
        if new.remote_identity != old.remote_identity:
            new.submit(now, DeleteIke("another identity answered"))
            self._env.signal(now, ext.RebuildFailed(old, "another identity answered"))
            return
        self._env.signal(now, ext.Rebuilt(old, new))

    # --- helpers ---------------------------------------------------------------------------------

    def _tell_failure(self, now: Now, attempt: Attempt, why: str) -> bool:
        """Answer the commands that waited for an attempt; True if it was a rebuild of an SA that stands."""
        for tag in (attempt.tag, *(tag for _, tag in attempt.further)):
            self._env.done(tag, False, why)
        if attempt.beside is None or attempt.beside.is_closed():
            return False
        self._env.signal(now, ext.RebuildFailed(attempt.beside, why))
        return True

    def _close(
        self,
        now: Now,
        sa: IkeSa,
        why: str,
        held: Sequence[ChildSa],
        again: Sequence[ChildSa],
        linger_s: float = 0.0,
        *,
        there: bool = False,
    ) -> None:
        """Close an IKE SA; packets for `held` wait, and those of `again` are built anew at once.

        `there`: the peer has just spoken."""
        lost = [] if self.stopping else [c for c in held if not self._served_elsewhere(c, sa)]
        for child in lost:
            self.hold(sa, child)
        sa.close(now, why, linger_s=linger_s)
        route = Route(sa.local, sa.remote, sa.rtt_s, there)
        self._again(now, sa.connection, [c for c in lost if c in again], route)

    def _unhold(self, policy: int) -> None:
        if self._held.pop(policy, None) is not None and policy not in self._trapped:
            self._env.plane(RemoveTrap(policy))

    def _start(self, now: Now, connection: Connection) -> None:
        for child in connection.children:
            if child.start_action == "trap" and connection.remote_host is not None:
                self._trap(connection, child)
        starting = [c for c in connection.children if c.start_action == "start"]
        if starting:
            self.bring_up(now, connection, starting, keep_trying=True)

    def _trap(self, connection: Connection, child: ChildConfig) -> None:
        local = self._local_host(connection)
        remote = connection.remote_host
        if local is None or remote is None:
            return
        policy = self._env.policy(connection.name, child.name)
        self._trapped.add(policy)
        self._env.plane(
            InstallTrap(
                policy,
                selectors.resolve(child.local_ts, local),
                selectors.resolve(child.remote_ts, remote),
            )
        )

    def _untrap(self, policy: int) -> None:
        if policy in self._trapped:
            self._trapped.discard(policy)
            self._env.plane(RemoveTrap(policy))

    def _again(self, now: Now, connection: Connection, children: Sequence[ChildSa], route: Route) -> None:
        today = self.connections.get(connection.name)
        if today is None or not children or self.stopping:
            return
        names = [c.name for c in children]
        configs = [c for c in today.children if c.name in names]
        if not configs:
            return
        self._env.event("recovering", "notice", connection=today.name, children=names)
        known = self._known_route(today, route)
        under_way = self._usable(today, known)
        if under_way is not None and not under_way.established:
            if known.there:
                give_time(under_way)
            self._hurry(now, under_way, "recovery")
        self.bring_up(
            now,
            today,
            configs,
            keep_trying=True,
            recovering=True,
            route=known,
        )

    def _known_route(self, connection: Connection, last: Route) -> Route:
        """Where to initiate after a loss: the configured address, else where the peer was last."""
        configured = self._route(connection)
        if configured is None:
            return last
        return Route(configured.local, configured.remote, last.rtt_s, last.there)

    def _add_child(
        self, now: Now, sa: IkeSa, config: ChildConfig, tag: int, beside: IkeSa | None = None
    ) -> None:
        """Have this child up in `sa`, if no IKE SA with its peer has it; that of `beside` does not count."""
        serving = self._env.table.serving(self._env.policy_number(sa, config))
        owners = [owner for owner, child in serving if child.state is ChildState.INSTALLED]
        if any(owner is sa or (owner.established and owner is not beside) for owner in owners):
            self._env.done(tag, True, f"{config.name} is up already")
            return
        # A rekeying does not count: its child is gone, or we would not be here.
        under_way = [e for e in (sa.active, *sa.queue) if isinstance(e, CreateChild)]
        if not tag and any(e.own is Own.CREATE_CHILD and e.config.name == config.name for e in under_way):
            return
        sa.submit(now, CreateChild(config, tag))

    def _usable(self, connection: Connection, route: Route | None) -> IkeSa | None:
        """An established IKE SA of the connection, else one that is being set up by us.

        Where the connection is for any peer, it is one with the peer to which `route` leads.
        """
        ours = self._env.table.of_connection(connection.name)
        if connection.remote_host is None:
            ours = [s for s in ours if route is not None and s.remote.host == route.remote.host]
        established = (s for s in ours if s.established)
        under_way = (a.latest for s in ours if (a := self._attempts.of(s)) is not None)
        return next(established, None) or next(under_way, None)

    def _served_elsewhere(self, child: ChildSa, closing: IkeSa | None = None) -> bool:
        """Whether another child serves the same policy (which is of one peer), not one of `closing`."""
        return any(
            other is not child and other.state is ChildState.INSTALLED and sa.established
            for sa, other in self._env.table.serving(child.policy)
            if sa is not closing
        )

    def _route(self, connection: Connection) -> Route | None:
        remote, local = connection.remote_host, self._local_host(connection)
        if remote is None or local is None:
            return None
        return Route(Address(local, self._env.config.port), Address(remote, connection.remote_port))

    def _local_host(self, connection: Connection) -> str | None:
        return local_host(connection, self._env.config.local_hosts)
