"""IKE_SA_INIT (RFC 7296 sections 1.2, 2.6, 2.7, 2.23), both roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deadpeer.crypto import (
    BadPublicValue,
    Group,
    IkeSuite,
    ProposalError,
    acceptable_groups,
    check_ike_response,
    generate_key,
    initial_skeyseed,
    offer,
    select_ike,
)
from deadpeer.ike import retransmission
from deadpeer.ike.child import NONCE_OCTETS
from deadpeer.ike.connection import ChildConfig, Connection
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchanges.setup import (
    Setup,
    admitted,
    begin_auth,
    capabilities,
    demand_cookie,
    first_capabilities,
    half_open,
    read_capabilities,
    take_cookie,
)
from deadpeer.ike.refusals import refuse, reply
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.rates import AMPLIFICATION
from deadpeer.values import Datagram, Now
from deadpeer.wire import (
    CertEncoding,
    CertificateRequest,
    ExchangeType,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Payload,
    SecurityAssociation,
    encode_message,
    label,
)

if TYPE_CHECKING:
    from deadpeer.ike.cookie import CookieJar

NOT_CHOSEN = Notify(NotifyType.NO_PROPOSAL_CHOSEN)

FIXED_OCTETS = 260
"""Of our IKE_SA_INIT response, but for the public value and the names of the CAs."""

HINT_INTERVAL_S = 1.0
"""Unprotected errors to the same IKE_SA_INIT are told, and restart the backoff, no more often."""
HINT_PATIENCE_S = 3.0
"""After an unprotected error, a setup that a command waits for goes on for so long, in case it is forged."""


# --- initiator -------------------------------------------------------------------------------------


def initiate(sa: IkeSa, now: Now, child: ChildConfig | None, tag: int) -> None:
    """Send the first IKE_SA_INIT request of a new SA in state INIT_SENT."""
    sa.setup = Setup(nonce_i=sa.env.entropy.octets(NONCE_OCTETS), child=child, tag=tag)
    _use_group(sa, acceptable_groups(sa.connection.proposals)[0])
    _send(sa, now)


def on_response(sa: IkeSa, now: Now, octets: bytes, message: Message, datagram: Datagram) -> None:
    """An IKE_SA_INIT response for this SA: go on, or try again with a cookie or another group.

    Nothing in it is authenticated yet: what can't be used is counted and otherwise ignored.
    """
    setup = sa.setup
    if setup is None or sa.state is not IkeState.INIT_SENT or message.message_id != 0:
        sa.env.drop("IKE_SA_INIT response not awaited")
        return
    if (cookie := message.notify(NotifyType.COOKIE)) is not None and not message.first(SecurityAssociation):
        if take_cookie(sa, now, cookie):
            _send(sa, now)
        return
    if (wanted := message.notify(NotifyType.INVALID_KE_PAYLOAD)) is not None:
        _retry_with_group(sa, now, wanted)
        return
    if message.first(SecurityAssociation) is None:
        _note_error(sa, now, message)
        return
    _accept(sa, now, octets, message, datagram)


def _send(sa: IkeSa, now: Now) -> None:
    setup = sa.setup
    assert setup is not None and setup.key_pair is not None
    setup.offered = offer(sa.connection.proposals, b"")
    payloads: list[Payload] = [
        setup.offered,
        KeyExchange(setup.key_pair.group.transform_id, setup.key_pair.public),
        Nonce(setup.nonce_i),
        *first_capabilities(sa, now),
    ]
    if setup.cookie:
        payloads.insert(0, Notify(NotifyType.COOKIE, setup.cookie))
    setup.request = encode_message(
        Message(sa.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, tuple(payloads))
    )
    sa.send.close()
    sa.send.next_id = 0
    sa.start_request(now, (setup.request,), "IKE_SA_INIT request")


def _use_group(sa: IkeSa, group: Group) -> None:
    assert sa.setup is not None
    sa.setup.key_pair = generate_key(group, sa.env.entropy)
    sa.setup.groups_tried.append(group)


def _retry_with_group(sa: IkeSa, now: Now, wanted: Notify) -> None:
    setup = sa.setup
    assert setup is not None
    group_id = int.from_bytes(wanted.data, "big") if len(wanted.data) == 2 else 0
    groups = {g.transform_id: g for g in acceptable_groups(sa.connection.proposals)}
    group = groups.get(group_id)
    # A group we did not propose, or one that was refused before: forged, or a loop (section 2.7).
    if group is None or group in setup.groups_tried:
        sa.env.drop("unusable INVALID_KE_PAYLOAD")
        setup.last_error = f"INVALID_KE_PAYLOAD for group {group_id}"
        return
    _use_group(sa, group)
    _send(sa, now)


def _note_error(sa: IkeSa, now: Now, message: Message) -> None:
    """An unauthenticated error is a hint to try again, not a verdict (section 2.4)."""
    setup = sa.setup
    assert setup is not None
    errors = [n for n in message.all(Notify) if n.is_error]
    if not errors:
        sa.env.drop("IKE_SA_INIT response without SA")
        return
    setup.last_error = label(NotifyType, errors[0].type)
    sa.env.count(f"unprotected error: {setup.last_error}")
    if now.mono_ns < setup.next_hint_ns:
        return
    setup.next_hint_ns = now.after(HINT_INTERVAL_S)
    # Somebody is there: what was lost while nobody was is worth asking again soon.
    sa.backoff = 1
    retransmission.arm(sa, now)
    sa.env.event(
        "hint", "notice", connection=sa.connection.name, sa=sa.number,
        hint="unprotected error to IKE_SA_INIT", detail=setup.last_error, source=str(sa.remote),
    )  # fmt: skip
    if setup.tag and sa.env.timers.armed(sa.number, "unprotected error") is None:
        at = now.after(HINT_PATIENCE_S)
        sa.env.timers.arm(
            sa.number, "unprotected error", at, lambda t: sa.fail_setup(t, "the peer refuses IKE_SA_INIT")
        )


def _accept(sa: IkeSa, now: Now, octets: bytes, message: Message, datagram: Datagram) -> None:
    setup = sa.setup
    assert setup is not None and setup.key_pair is not None and setup.offered is not None
    chosen, key, nonce = (
        message.first(SecurityAssociation),
        message.first(KeyExchange),
        message.first(Nonce),
    )
    if chosen is None or key is None or nonce is None or message.spi_r == bytes(8):
        sa.env.drop("incomplete IKE_SA_INIT response")
        return
    try:
        suite = check_ike_response(setup.offered, chosen)
        if suite.group != setup.key_pair.group or key.group != suite.group.transform_id:
            sa.env.drop("IKE_SA_INIT response for another group")
            return
        shared = setup.key_pair.shared(key.data)
    except (ProposalError, BadPublicValue) as error:
        setup.last_error = str(error)
        sa.env.drop("unusable IKE_SA_INIT response")
        return
    sa.peer_spi = message.spi_r
    sa.env.table.peer_spi_known(sa)
    setup.nonce_r, setup.response = nonce.data, octets
    read_capabilities(sa, message, datagram)
    sa.set_keys(
        suite, initial_skeyseed(suite.prf, setup.nonce_i, setup.nonce_r, shared), setup.nonce_i, setup.nonce_r
    )
    begin_auth(sa, now)


# --- responder -------------------------------------------------------------------------------------


def respond(
    env: Environment,
    now: Now,
    octets: bytes,
    message: Message,
    datagram: Datagram,
    candidates: list[Connection],
    cookies: CookieJar,
) -> None:
    """An IKE_SA_INIT request from a stranger: a cookie if we are busy, an error, or a half-open SA."""
    offered, key, nonce = (
        message.first(SecurityAssociation),
        message.first(KeyExchange),
        message.first(Nonce),
    )
    if offered is None or key is None or nonce is None:
        env.drop("incomplete IKE_SA_INIT request")
        return
    admission = admitted(env, now, message, nonce, datagram, cookies)
    if admission is None:
        return
    if not candidates:
        env.event("no_connection", "notice", remote=str(datagram.remote), local=str(datagram.local))
        refuse(env, now, message, datagram, NOT_CHOSEN, "no connection for the peer")
        return
    for connection in candidates:
        selected = select_ike(offered, connection.proposals, key.group)
        if selected is not None:
            break
    else:
        refuse(env, now, message, datagram, NOT_CHOSEN, "no IKE proposal in common")
        return
    group = selected.suite.group
    if key.group != group.transform_id:
        wanted = Notify(NotifyType.INVALID_KE_PAYLOAD, group.transform_id.to_bytes(2, "big"))
        reply(env, message, datagram, wanted, "key exchange for another group")
        return
    authorities = b"".join(
        dict.fromkeys(c.remote.trust.authorities for c in candidates if c.remote.trust and c.send_certreq)
    )
    answer = FIXED_OCTETS + len(key.data) + len(authorities)
    if not admission.proven and answer > AMPLIFICATION * len(octets):
        demand_cookie(env, now, message, nonce, datagram, cookies)
        return
    key_pair = generate_key(group, env.entropy)
    try:
        shared = key_pair.shared(key.data)
    except BadPublicValue:
        env.drop("bad public value in IKE_SA_INIT")
        return
    sa = IkeSa(
        env,
        now,
        connection,
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
        candidates=tuple(c for c in candidates if _permits(c, selected.suite)),
    )
    env.table.add(sa)
    env.table.half_opened(sa, message.spi_i, proven=admission.proven)
    read_capabilities(sa, message, datagram)
    payloads: list[Payload] = [
        selected.answer(),
        KeyExchange(group.transform_id, key_pair.public),
        Nonce(sa.setup.nonce_r),
        *capabilities(sa, now, response=True),
    ]
    if authorities:
        payloads.append(CertificateRequest(CertEncoding.X509_SIGNATURE, authorities))
    sa.setup.response = encode_message(
        Message(sa.spi_i, sa.spi_r, ExchangeType.IKE_SA_INIT, 0, False, True, tuple(payloads))
    )
    sa.set_keys(
        selected.suite,
        initial_skeyseed(selected.suite.prf, nonce.data, sa.setup.nonce_r, shared),
        nonce.data,
        sa.setup.nonce_r,
    )
    half_open(sa, now, octets)


def _permits(connection: Connection, suite: IkeSuite) -> bool:
    """Whether a connection's own proposals hold the suite that was chosen for another one's sake."""
    return any(
        suite.encryption in p.encryptions
        and (suite.integrity is None or suite.integrity in p.integrities)
        and suite.prf in p.prfs
        and suite.group in p.groups
        for p in connection.proposals
    )
