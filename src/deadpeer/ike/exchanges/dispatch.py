"""Which responder handles a decrypted request."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.ike.exchanges.auth import respond_auth
from deadpeer.ike.exchanges.child import respond_create, respond_rekey
from deadpeer.ike.exchanges.ike_rekey import respond_rekey_ike
from deadpeer.ike.exchanges.informational import respond_informational
from deadpeer.ike.handover import take_over
from deadpeer.ike.sa import IkeSa
from deadpeer.values import Now
from deadpeer.wire import (
    Delete,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    Payload,
    Protocol,
    SecurityAssociation,
)


def respond(sa: IkeSa, now: Now, request: Message) -> Sequence[Payload]:
    """The payloads of the response to a verified request."""
    if sa.predecessor is not None and not any(d.protocol == Protocol.IKE for d in request.all(Delete)):
        # Of two new IKE SAs the peer uses this one: it is the one that stays (section 2.8.2).
        take_over(now, sa.predecessor, sa, initiated=False)
    if request.exchange == ExchangeType.IKE_AUTH:
        return respond_auth(sa, now, request)
    if request.exchange == ExchangeType.INFORMATIONAL:
        return respond_informational(sa, now, request)
    if request.exchange != ExchangeType.CREATE_CHILD_SA or sa.established_ns is None:
        return (Notify(NotifyType.INVALID_SYNTAX),)
    rekey = request.notify(NotifyType.REKEY_SA)
    if rekey is not None:
        return respond_rekey(sa, now, request, rekey)
    offered = request.first(SecurityAssociation)
    if offered is not None and offered.proposals and offered.proposals[0].protocol == Protocol.IKE:
        return respond_rekey_ike(sa, now, request)
    return respond_create(sa, now, request)
