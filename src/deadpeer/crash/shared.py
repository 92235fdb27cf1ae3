"""What the members of a cluster share, put to use in one: secrets, ticket keys, SPI keys, the view."""

from __future__ import annotations

from deadpeer.cluster.membership import SecretsChanged, ViewChanged
from deadpeer.cluster.ownership import AddressHeld, Cluster
from deadpeer.cluster.records import View
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer
from deadpeer.cluster.spi import EpochSpis, EspCodec, SpiRing
from deadpeer.cluster.standby import PartnerLives
from deadpeer.crash.boot import BootState, Generation
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.resumption import TicketGateway
from deadpeer.crash.tickets import KeyRing, TicketKey
from deadpeer.crypto import Entropy
from deadpeer.ike.extension import Extension
from deadpeer.ike.io import ExtensionCommand
from deadpeer.values import Now

FOREVER_S = 1 << 40
"""Unix time: a shared ticket key ends when the members drop it, not by the clock."""


class ClusterLife(Extension):
    """One life of a member: makes what the extensions begin with, and changes it when the cluster does.

    Commands: `secrets` with a `SecretsChanged` (answered when nothing relies on older ones), `view` with a
    `ViewChanged`, `partner` with a `PartnerLives`.
    """

    name = "cluster"

    def __init__(
        self,
        member: int,
        epoch: int,
        secrets: ClusterSecrets,
        sealer: Sealer,
        entropy: Entropy,
        view: View | None = None,
    ) -> None:
        """`view`: what the store says of the members; None: one of two that share an address."""
        esp = EspCodec(sealer.derive("esp spi"))
        self.ring = SpiRing(_octets(secrets, KeyKind.SPI))
        self.spis = EpochSpis(self.ring, epoch, member, entropy, esp)
        self.ownership: Cluster | AddressHeld = (
            AddressHeld(self.ring, esp, epoch, member)
            if view is None
            else Cluster(self.ring, esp, epoch, member, view)
        )
        self.state = BootState(epoch, _octets(secrets, KeyKind.SPI)[0], _generations(secrets))
        self._secrets = secrets
        self._maker: TokenMaker | None = None
        self._tickets: TicketGateway | None = None

    def serve(self, now: Now, maker: TokenMaker, tickets: TicketGateway) -> None:
        """These use the shared secrets from now on."""
        self._maker, self._tickets = maker, tickets
        maker.share()
        tickets.adopt(now, _tickets(self._secrets))

    def command(self, now: Now, command: ExtensionCommand) -> bool:
        if command.extension != self.name:
            return False
        match command.argument:
            case SecretsChanged(secrets=secrets):
                self._adopt(now, secrets, command.tag)
            case ViewChanged(view=view) if isinstance(self.ownership, Cluster):
                self.ownership.view = view
                self.core.done(command.tag, True, "")
            case PartnerLives(lives=lives) if isinstance(self.ownership, AddressHeld):
                self.ownership.partner_lives = lives
                self.core.done(command.tag, True, "")
            case _:
                self.core.done(command.tag, False, f"cluster has no command '{command.verb}'")
        return True

    def _adopt(self, now: Now, secrets: ClusterSecrets, tag: int) -> None:
        self._secrets = secrets
        self.ring.renew(_octets(secrets, KeyKind.SPI))
        if self._tickets is not None:
            self._tickets.adopt(now, _tickets(secrets))
        if self._maker is not None:
            version = secrets.version

            def then() -> None:
                self.core.event("cluster_secrets", "notice", version=version)
                self.core.done(tag, True, str(version))

            self._maker.adopt(now, _generations(secrets), _going(secrets), then)


def _octets(secrets: ClusterSecrets, kind: KeyKind) -> list[bytes]:
    return [key.secret for key in secrets.of(kind)]


def _generations(secrets: ClusterSecrets) -> tuple[Generation, ...]:
    return tuple(Generation(key.number, key.secret) for key in secrets.of(KeyKind.QCD))


def _going(secrets: ClusterSecrets) -> int | None:
    """The generation of token secrets that goes when what is announced becomes active."""
    after = {key.number for key in secrets.activate().of(KeyKind.QCD)}
    return max((key.number for key in secrets.of(KeyKind.QCD) if key.number not in after), default=None)


def _tickets(secrets: ClusterSecrets) -> KeyRing:
    keys = (
        TicketKey(key.number, key.made_s, FOREVER_S, FOREVER_S, key.secret)
        for key in secrets.of(KeyKind.TICKET)
    )
    return KeyRing(tuple(keys))
