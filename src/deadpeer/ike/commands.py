"""Commands of the operator: up, down, rekey, reload, stop."""

from __future__ import annotations

from deadpeer.ike import faults
from deadpeer.ike.child import ChildState
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchanges.child import RekeyChild
from deadpeer.ike.exchanges.ike_rekey import RekeyIke
from deadpeer.ike.exchanges.informational import DeleteChild, DeleteIke
from deadpeer.ike.io import Command, ExtensionCommand, Initiate, Lose, Rekey, Reload, Shutdown, Terminate
from deadpeer.ike.recovery import Recovery
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import Now


class Commands:
    """Carries out commands; the outcome of one with a tag is told once, as `CommandDone`."""

    def __init__(self, env: Environment, recovery: Recovery) -> None:
        self._env = env
        self._recovery = recovery

    def run(self, now: Now, command: Command) -> None:
        """Carry out a command."""
        if isinstance(command, Initiate):
            self._up(now, command)
        elif isinstance(command, Terminate):
            self._down(now, command)
        elif isinstance(command, Rekey):
            self._rekey(now, command)
        elif isinstance(command, Lose):
            faults.lose(self._env, now, command)
        elif isinstance(command, Reload):
            self._recovery.reload(now, command.connections)
        elif isinstance(command, Shutdown):
            self._shutdown(now)
        else:
            self._extension(now, command)

    def _up(self, now: Now, command: Initiate) -> None:
        connection = self._recovery.connections.get(command.connection)
        if connection is None:
            self._env.done(command.tag, False, self._unknown(command.connection))
            return
        children = [c for c in connection.children if command.child in (None, c.name)]
        if not children:
            names = ", ".join(c.name for c in connection.children) or "none"
            why = f"connection {connection.name} has no child {command.child}; it has: {names}"
            self._env.done(command.tag, False, why)
            return
        self._recovery.bring_up(now, connection, children, tag=command.tag)

    def _down(self, now: Now, command: Terminate) -> None:
        sas = self._sas(command.connection)
        if command.child is not None:
            self._down_child(now, sas, command)
            return
        self._recovery.forget(command.connection)
        self._recovery.release(command.connection)
        if not sas:
            self._env.done(command.tag, False, f"no IKE SA of connection {command.connection} is up")
            return
        left = {sa.number for sa in sas}

        def closed(number: int) -> None:
            left.discard(number)
            if not left:
                self._env.done(command.tag, True, f"{len(sas)} IKE SA(s) deleted")

        for sa in sas:
            number = sa.number
            sa.when_closed.append(lambda n=number: closed(n))  # type: ignore[misc]
        for sa in sas:
            self._delete(now, sa, "terminated")

    def _down_child(self, now: Now, sas: list[IkeSa], command: Terminate) -> None:
        children = [
            (sa, child)
            for sa in sas
            for child in sa.children.values()
            if child.name == command.child and child.state is ChildState.INSTALLED
        ]
        if not children:
            self._env.done(command.tag, False, f"no child SA {command.child} is up")
        for sa, child in children:
            last = (sa, child) == children[-1]
            sa.submit(now, DeleteChild(child, child.spi_in, "terminated", command.tag if last else 0))

    def _rekey(self, now: Now, command: Rekey) -> None:
        sas = [sa for sa in self._sas(command.connection) if sa.established]
        if command.child is None:
            if not sas:
                self._env.done(command.tag, False, f"no IKE SA of connection {command.connection} is up")
            for sa in sas:
                sa.submit(now, RekeyIke(command.tag if sa is sas[-1] else 0))
            return
        children = [
            (sa, child)
            for sa in sas
            for child in sa.children.values()
            if child.name == command.child and child.state is ChildState.INSTALLED
        ]
        if not children:
            self._env.done(command.tag, False, f"no child SA {command.child} is up")
        for sa, child in children:
            last = (sa, child) == children[-1]
            sa.submit(now, RekeyChild(child, command.tag if last else 0))

    def _shutdown(self, now: Now) -> None:
        self._recovery.stopping = True
        for name in self._recovery.connections:
            self._recovery.forget(name)
        for sa in self._env.table:
            if sa.state is IkeState.REKEYED:
                sa.close(now, "the gateway stops")
        sas = list(self._env.table)
        left = {sa.number for sa in sas}

        def closed(number: int) -> None:
            left.discard(number)
            if not left:
                self._env.event("shutdown_done")

        if not sas:
            self._env.event("shutdown_done")
        for sa in sas:
            number = sa.number
            sa.when_closed.append(lambda n=number: closed(n))  # type: ignore[misc]
        for sa in sas:
            self._delete(now, sa, "the gateway stops")

    def _extension(self, now: Now, command: ExtensionCommand) -> None:
        for extension in self._env.extensions:
            if extension.command(now, command):
                return
        self._env.done(command.tag, False, f"nothing here is called {command.extension}")

    def _delete(self, now: Now, sa: IkeSa, why: str) -> None:
        if sa.established:
            sa.submit(now, DeleteIke(why), urgent=True)
        elif sa.established_ns is None and not sa.is_deleting():
            self._recovery.give_up(now, sa, why)

    def _sas(self, connection: str) -> list[IkeSa]:
        """The SAs of a connection, without those that are replaced and only wait for their end."""
        found = self._env.table.of_connection(connection)
        return [sa for sa in found if sa.state is not IkeState.REKEYED]

    def _unknown(self, name: str) -> str:
        known = ", ".join(sorted(self._recovery.connections)) or "none"
        return f"there is no connection {name}; configured are: {known}"
