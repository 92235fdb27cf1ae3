"""IKE_SESSION_RESUME (RFC 5723 section 4.3), both roles: a new IKE SA without a key exchange.

What is presented, and what it is worth, is known to extensions only. What an answer says is not
authenticated before IKE_AUTH, so a refusal can at most cost a full exchange.
"""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.crypto import resumption_skeyseed
from deadpeer.ike.child import NONCE_OCTETS
from deadpeer.ike.connection import ChildConfig
from deadpeer.ike.cookie import CookieJar
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchanges import init
from deadpeer.ike.exchanges.setup import (
    Setup,
    admitted,
    begin_auth,
    capabilities,
    first_capabilities,
    half_open,
    read_capabilities,
    take_cookie,
)
from deadpeer.ike.extension import ResumeFellBack, ResumeGrant, ResumeOffer, ResumeRefusal
from deadpeer.ike.refusals import reply
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import Datagram, Now
from deadpeer.wire import (
    ExchangeType,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Payload,
    encode_message,
    label,
)

PATIENCE = 3
"""After so many unanswered requests the initiator falls back to IKE_SA_INIT."""


@dataclass(slots=True)
class Plan:
    """The initiator's: what it offered, and what it was to bring up."""

    offer: ResumeOffer
    child: ChildConfig | None
    tag: int


def initiate(sa: IkeSa, now: Now, plan: Plan) -> None:
    """Send IKE_SESSION_RESUME for a new SA in state INIT_SENT."""
    sa.setup = Setup(
        nonce_i=sa.env.entropy.octets(NONCE_OCTETS),
        child=plan.child,
        tag=plan.tag,
        resumption=plan.offer.resumption,
        resumed_identity=plan.offer.remote_identity,
        resume_plan=plan,
    )
    sa.resumed_by = plan.offer
    _send(sa, now)


def on_response(sa: IkeSa, now: Now, octets: bytes, message: Message, datagram: Datagram) -> None:
    """The answer to IKE_SESSION_RESUME: go on to IKE_AUTH, or fall back to IKE_SA_INIT."""
    setup = sa.setup
    if setup is None or setup.resume_plan is None or sa.state is not IkeState.INIT_SENT:
        sa.env.drop("IKE_SESSION_RESUME response not awaited")
        return
    nonce, cookie = message.first(Nonce), message.notify(NotifyType.COOKIE)
    if nonce is None and cookie is not None:
        if take_cookie(sa, now, cookie):
            _send(sa, now)
        return
    if nonce is None:
        refusal = next(iter(message.all(Notify)), None)
        why = label(NotifyType, refusal.type) if refusal is not None else "an empty answer"
        fall_back(sa, now, why, answered=True)
        return
    if message.spi_r == bytes(8):
        sa.env.drop("incomplete IKE_SESSION_RESUME response")
        return
    _derive(sa, nonce.data, octets, message, datagram)
    begin_auth(sa, now)


def fall_back(sa: IkeSa, now: Now, why: str, *, answered: bool) -> None:
    """The peer will not resume: make the full exchange."""
    setup = sa.setup
    if setup is None or setup.resume_plan is None:
        return
    plan = setup.resume_plan
    sa.resumed_by = None
    sa.env.event("resume_refused", connection=sa.connection.name, sa=sa.number, reason=why)
    sa.env.signal(now, ResumeFellBack(sa, plan.offer, answered))
    init.initiate(sa, now, plan.child, plan.tag)


def respond(
    env: Environment, now: Now, octets: bytes, message: Message, datagram: Datagram, cookies: CookieJar
) -> None:
    """A stranger wants to resume: a half-open SA if an extension vouches for what it presents."""
    nonce = message.first(Nonce)
    if nonce is None:
        env.drop("incomplete IKE_SESSION_RESUME request")
        return
    admission = admitted(env, now, message, nonce, datagram, cookies)
    if admission is None:
        return
    grant = _redeem(env, now, message, datagram)
    if grant is None:
        env.drop("IKE_SESSION_RESUME without anything that we gave")
        return
    if isinstance(grant, ResumeRefusal):
        reply(env, message, datagram, grant.notify, "resumption")
        return
    sa = IkeSa(
        env,
        now,
        grant.connection,
        initiator=False,
        own_spi=env.ike_spi(),
        peer_spi=message.spi_i,
        local=datagram.local,
        remote=datagram.remote,
    )
    sa.setup = Setup(
        nonce_i=nonce.data,
        nonce_r=env.entropy.octets(NONCE_OCTETS),
        request=octets,
        jar=cookies,
        candidates=(grant.connection,),
        resumption=grant.resumption,
        resumed_identity=grant.remote_identity,
    )
    sa.resumed_by = grant
    env.table.add(sa)
    env.table.half_opened(sa, message.spi_i, proven=admission.proven)
    read_capabilities(sa, message, datagram)
    payloads: list[Payload] = [Nonce(sa.setup.nonce_r), *capabilities(sa, now, response=True)]
    sa.setup.response = encode_message(
        Message(sa.spi_i, sa.spi_r, ExchangeType.IKE_SESSION_RESUME, 0, False, True, tuple(payloads))
    )
    _set_keys(sa)
    half_open(sa, now, octets)


def _redeem(
    env: Environment, now: Now, message: Message, datagram: Datagram
) -> ResumeGrant | ResumeRefusal | None:
    notifies = message.all(Notify)
    for extension in env.extensions:
        grant = extension.resume_redeem(now, notifies, datagram.remote)
        if grant is not None:
            return grant
    return None


def _send(sa: IkeSa, now: Now) -> None:
    setup = sa.setup
    assert setup is not None and setup.resume_plan is not None
    payloads: list[Payload] = [
        Nonce(setup.nonce_i),
        *setup.resume_plan.offer.notifies,
        *first_capabilities(sa, now),
    ]
    if setup.cookie:
        payloads.insert(0, Notify(NotifyType.COOKIE, setup.cookie))
    setup.request = encode_message(
        Message(sa.spi_i, bytes(8), ExchangeType.IKE_SESSION_RESUME, 0, True, False, tuple(payloads))
    )
    sa.send.close()
    sa.send.next_id = 0
    sa.start_request(now, (setup.request,), "IKE_SESSION_RESUME request")


def _derive(sa: IkeSa, nonce_r: bytes, octets: bytes, message: Message, datagram: Datagram) -> None:
    setup = sa.setup
    assert setup is not None
    sa.peer_spi = message.spi_r
    sa.env.table.peer_spi_known(sa)
    setup.nonce_r, setup.response = nonce_r, octets
    read_capabilities(sa, message, datagram)
    _set_keys(sa)


def _set_keys(sa: IkeSa) -> None:
    """SKEYSEED = prf(SK_d of the old SA, "Resumption" | Ni | Nr) (RFC 5723 section 5.1)."""
    setup = sa.setup
    assert setup is not None and setup.resumption is not None
    suite, nonces = setup.resumption.suite, (setup.nonce_i, setup.nonce_r)
    sa.set_keys(suite, resumption_skeyseed(suite.prf, setup.resumption.sk_d, *nonces), *nonces)
