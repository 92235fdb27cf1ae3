"""Redirect (RFC 5685): a gateway that is taken out on purpose sends its peers elsewhere, and they go.

The client builds the new SA first and deletes the old one then: no packet is lost. A peer that does not
know the notify gets an orderly DELETE. Behind an address that several gateways share the address to go to
is that same one: whoever distributes the packets has been told not to bring new SAs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.options import follows
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.ike.extension import (
    Extension,
    PeerNotifies,
    PeerVendorIds,
    RebuildFailed,
    Rebuilt,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    SaView,
    Signal,
    Slot,
)
from deadpeer.ike.io import ExtensionCommand
from deadpeer.values import NS_PER_S, Deadline, Now
from deadpeer.wire import Notify, NotifyType

PER_S = 50.0
"""So many SAs are sent away in a second."""
PATIENCE_S = 10.0
"""Who was asked to go and has not gone after this time gets a DELETE."""
GONE_S = 10.0
"""How long a DELETE may take before the SA is not waited for any more."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The argument of the command `drain`. `host`: where peers shall go; None: to where they found us."""

    host: str | None = None


class Redirect(Extension):
    """Both sides. Command: redirect drain."""

    name = "redirect"
    observes = (SaEstablished, SaRekeyed, SaClosed, PeerNotifies, PeerVendorIds, Rebuilt, RebuildFailed)

    def __init__(self, rebuilds: Rebuilds) -> None:
        self._rebuilds = rebuilds
        self._able: set[int] = set()
        self._agenda: Agenda[int] = Agenda("drain")
        self._leaving: dict[int, _Leaving] = {}
        self._host: str | None = None
        self._tag: int | None = None
        self._over = False
        """All have gone."""
        self._drained = 0
        self._from: dict[int, tuple[str, str]] = {}
        """By SA: its connection and the address that redirected us, while the new one is being built."""

    # --- the client ------------------------------------------------------------------------------

    def notifies(self, now: Now, slot: Slot, sa: SaView, *, response: bool) -> list[Notify]:
        """RFC 5685 sections 3 and 4: we follow; and who sent us."""
        if slot is not Slot.INIT or response or not follows(sa.connection):
            return []
        senders = [host for name, host in self._from.values() if name == sa.connection.name]
        came = [Notify(NotifyType.REDIRECTED_FROM, _identity(host)) for host in senders[-1:]]
        return [Notify(NotifyType.REDIRECT_SUPPORTED), *came]

    def _follow(self, now: Now, sa: SaView, data: bytes) -> None:
        """RFC 5685 section 5."""
        host = _read(data) if follows(sa.connection) else None
        if host is None or not sa.initiator or not _may_serve(host, sa):
            self.core.count("redirect.unusable")
            return
        self._from[sa.number] = (sa.connection.name, sa.remote.host)
        begun = self._rebuilds.begin(now, sa, self.name, host)
        if self._rebuilds.owner(sa) != self.name:
            del self._from[sa.number]
        self.core.count("redirect.followed" if begun else "redirect.not_followed")
        if begun:
            self.core.event("redirected", "notice", connection=sa.connection.name, sa=sa.number, to=host)

    # --- the gateway -----------------------------------------------------------------------------

    def command(self, now: Now, command: ExtensionCommand) -> bool:
        if command.extension != self.name:
            return False
        if not isinstance(command.argument, Drain):
            self.core.done(command.tag, False, "redirect: drain what?")
            return True
        if self._tag is not None:
            self.core.done(command.tag, self._over, self._outcome() if self._over else "it drains already")
            return True
        self._tag, self._host = command.tag, command.argument.host
        self.core.close_doors()
        living = [sa for sa in self.core.views() if sa.established]
        self.core.event("draining", "notice", ike_sas=len(living))
        for number, sa in enumerate(living):
            self._send_away(sa, now.mono_ns + int(number / PER_S * NS_PER_S))
        self._finish()
        return True

    def deadline(self) -> Deadline | None:
        return self._agenda.deadline()

    def expire(self, now: Now) -> None:
        while (number := self._agenda.due(now.mono_ns)) is not None:
            leaving = self._leaving.get(number)
            if leaving is None:
                continue
            sa = leaving.sa
            if number in self._able and not leaving.asked:
                leaving.asked = True
                data = _identity(self._host or sa.local.host)
                self.core.inform(now, sa, (Notify(NotifyType.REDIRECT, data),), "redirect")
                self._agenda.set(number, now.after(PATIENCE_S))
            elif not leaving.deleted:
                leaving.deleted = True
                self.core.dismiss(now, sa, "drained")
                self._agenda.set(number, now.after(GONE_S))
            else:
                self._gone(number)

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case PeerVendorIds(sa=sa, notifies=notifies):
                if NotifyType.REDIRECT_SUPPORTED in notifies and not sa.initiator:
                    self._able.add(sa.number)
            case PeerNotifies(sa=sa, slot=Slot.INFORMATIONAL, notifies=notifies):
                for notify in notifies:
                    if notify.type == NotifyType.REDIRECT:
                        self._follow(now, sa, notify.data)
            case SaRekeyed(old=old, new=new):
                if old.number in self._able:
                    self._able.add(new.number)
                if old.number in self._leaving:
                    self._send_away(new, now.mono_ns)
            case Rebuilt(old=old, new=new) if self._rebuilds.owner(old) == self.name:
                self._from.pop(old.number, None)
                self._rebuilds.done(now, old)
                self.core.dismiss(now, old, "redirected")
            case RebuildFailed(old=old) if self._rebuilds.owner(old) == self.name:
                self._from.pop(old.number, None)
                self._rebuilds.failed(now, old)
            case SaEstablished(sa=sa) if self._tag is not None:
                # It was let in before the doors were closed.
                self._send_away(sa, now.mono_ns)
            case SaClosed(sa=sa):
                self._from.pop(sa.number, None)
                self._able.discard(sa.number)
                self._gone(sa.number)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"redirect.able": len(self._able), "redirect.leaving": len(self._leaving)}

    def _send_away(self, sa: SaView, at_ns: int) -> None:
        self._leaving[sa.number] = _Leaving(sa)
        self._agenda.set(sa.number, at_ns)

    def _gone(self, number: int) -> None:
        self._agenda.cancel(number)
        if self._leaving.pop(number, None) is not None:
            self._drained += 1
            self._finish()

    def _finish(self) -> None:
        if self._tag is not None and not self._over and not self._leaving:
            self.core.event("drained", "notice", ike_sas=self._drained)
            self.core.done(self._tag, True, self._outcome())
            self._over = True

    def _outcome(self) -> str:
        return f"{self._drained} IKE SAs have gone"


@dataclass(slots=True)
class _Leaving:
    sa: SaView
    asked: bool = False
    deleted: bool = False


_IPV4, _IPV6 = 1, 2
_BROADCAST = "255.255.255.255"


def _identity(host: str) -> bytes:
    """RFC 5685 section 6.2: type, length, the gateway's address."""
    packed = ip_address(host).packed
    return bytes([_IPV4 if len(packed) == 4 else _IPV6, len(packed)]) + packed


def _read(data: bytes) -> str | None:
    """The address in a REDIRECT; None for a name (we resolve none) and for what can't be read."""
    if len(data) < 2 or data[0] not in (_IPV4, _IPV6) or data[1] != (4 if data[0] == _IPV4 else 16):
        return None
    packed = data[2 : 2 + data[1]]
    return str(ip_address(packed)) if len(packed) == data[1] else None


def _may_serve(host: str, sa: SaView) -> bool:
    """Whether a gateway may have this address, for a client that reaches the one of `sa`."""
    ip = ip_address(host)
    nobodys = ip.is_unspecified or ip.is_multicast or host == _BROADCAST
    return not nobodys and ip.version == ip_address(sa.remote.host).version
