"""Which captured datagrams an attacker gets to know. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from deadpeer.lab.link import Passing
from deadpeer.lab.trace import IkeSeen, look

KEPT = 120
"""Captured datagrams that he is told of, the newest ones. ESP counts as well."""
CHECK_SPI = "CHECK_SPI"


def recorded(tape: str, tapped: Iterable[Passing]) -> tuple[Passing, ...]:
    """The datagrams of this kind (`catalogue.Tape`); a tape may be given again with more behind it."""
    if not tape:
        return ()
    kept = [passing for passing in tapped if _belongs(tape, passing)]
    if tape == "everything":
        # IKE messages are rare; ESP must not push them out.
        esp = [p for p in kept if not isinstance(look(p.payload, p.lane), IkeSeen)]
        ike = [p for p in kept if isinstance(look(p.payload, p.lane), IkeSeen)]
        return (*ike[-KEPT:], *esp[-KEPT // 3 :])
    first = [p for p in kept if _is(p, "IKE_SA_INIT")][:1]
    return (*first, *[p for p in kept if not _is(p, "IKE_SA_INIT")][-KEPT:])


def _belongs(tape: str, passing: Passing) -> bool:
    if tape == "everything":
        return True
    seen = look(passing.payload, passing.lane)
    if not isinstance(seen, IkeSeen) or seen.protected:
        return False
    match tape:
        case "tokens":
            return "QCD_TOKEN" in seen.notifies
        case "checks":
            asked = any(name.startswith(CHECK_SPI) for name in seen.notifies)
            return asked or (_is(passing, "IKE_SA_INIT") and not seen.response)
        case _:
            return seen.exchange_name == "IKE_SESSION_RESUME" and not seen.response


def _is(passing: Passing, exchange: str) -> bool:
    seen = look(passing.payload, passing.lane)
    return isinstance(seen, IkeSeen) and seen.exchange_name == exchange
