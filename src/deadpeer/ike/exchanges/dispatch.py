"""Which responder handles a decrypted request."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.ike.exchanges.auth import respond_auth
from deadpeer.ike.exchanges.child import respond_create, respond_rekey
from deadpeer.ike.exchanges.ike_rekey import respond_rekey_ike
from deadpeer.ike.exchanges.informational import respond_informational
from deadpeer.ike.sa import IkeSa
from deadpeer.values import Now
from deadpeer.wire import (
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
