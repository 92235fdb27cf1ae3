"""IKE_AUTH (RFC 7296 sections 1.2, 2.15, 2.16; signatures RFC 7427), both roles, with the first child."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography import x509

from deadpeer.crypto import (
    AuthFailure,
    CertificateError,
    CredentialError,
    CryptoError,
    Identity,
    prf,
    shared_key_auth,
    signed_octets,
)
from deadpeer.crypto.auth import verify_signature
from deadpeer.crypto.certs import certificate_matches, load_certificates
from deadpeer.ike import extension as ext
from deadpeer.ike.child import (
    ChildError,
    ChildOffer,
    ChildSa,
    answer_payloads,
    check_answer,
    choose,
    install,
    offer_payloads,
    propose,
)
from deadpeer.ike.connection import Connection
from deadpeer.ike.exchange import Exchange
from deadpeer.ike.exchanges.child import announce_child
from deadpeer.ike.exchanges.informational import DeleteChild, DeleteIke
from deadpeer.ike.extension import Slot
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.ike.switch import install_in_turn
from deadpeer.values import Now
from deadpeer.wire import (
    Authentication,
    AuthMethod,
    CertEncoding,
    Certificate,
    CertificateRequest,
    ExchangeType,
    Identification,
    Message,
    Notify,
    NotifyType,
    Payload,
    SecurityAssociation,
    label,
)

if TYPE_CHECKING:
    from deadpeer.ike.exchanges.setup import Setup

FAILED_LINGER_S = 5.0
"""How long a refused SA stays to answer retransmissions."""
MAX_CERTIFICATES = 10


class InitiatorAuth(Exchange):
    """Our IKE_AUTH request: who we are, its proof, and the first child."""

    exchange_type = ExchangeType.IKE_AUTH
    reason = "IKE_AUTH request"

    def __init__(self) -> None:
        self._offer: ChildOffer | None = None

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        setup, connection = sa.setup, sa.connection
        assert setup is not None
        identity = connection.local.identity.to_payload(True)
        payloads: list[Payload] = [identity]
        try:
            proof = _prove(sa, connection, identity)
        except CryptoError as error:
            sa.fail_setup(now, str(error))
            return None
        if setup.resumption is None:
            payloads += _certificates(connection)
        if sa.initial_contact:
            payloads.append(Notify(NotifyType.INITIAL_CONTACT))
        if connection.remote.trust is not None and connection.send_certreq and setup.resumption is None:
            payloads.append(
                CertificateRequest(CertEncoding.X509_SIGNATURE, connection.remote.trust.authorities)
            )
        expected = connection.remote.identity
        if expected is not None and not expected.is_any:
            payloads.append(expected.to_payload(False))
        payloads.append(proof)
        if setup.child is not None:
            self._offer = propose(sa, setup.child, first=True)
            payloads += offer_payloads(self._offer)
        payloads += sa.env.contribute(now, Slot.AUTH, sa, response=False)
        return payloads

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        setup = sa.setup
        assert setup is not None
        if answer.first(Authentication) is None:
            error = next((n for n in answer.all(Notify) if n.is_error), None)
            what = label(NotifyType, error.type) if error is not None else "a response without AUTH"
            sa.fail_setup(now, f"the peer answered IKE_AUTH with {what}")
            return
        try:
            identity = _check_peer(sa, now, sa.connection, answer)
        except (AuthFailure, CertificateError) as error:
            sa.env.event(
                "authentication_failed", "warning", connection=sa.connection.name, sa=sa.number,
                remote=str(sa.remote), reason=str(error),
            )  # fmt: skip
            _refuse_responder(sa, now, str(error))
            return
        sa.remote_identity = identity
        tag, wanted = setup.tag, setup.child
        sa.established_now(now)
        announce_sa(sa)
        child = self._first_child(sa, now, answer, setup.nonce_i, setup.nonce_r, tag)
        _signal_up(sa, now, answer, child, setup)
        if sa.is_closed():
            sa.env.done(tag, False, "the IKE SA is closed already")
            return
        sa.env.lifecycle.sa_established(now, sa)
        if child is not None or wanted is None:
            sa.env.done(tag, True, "established")

    def abandoned(self, sa: IkeSa, now: Now, why: str) -> None:
        pass  # `fail_setup` and `close` tell the endpoint.

    def _first_child(
        self, sa: IkeSa, now: Now, answer: Message, nonce_i: bytes, nonce_r: bytes, tag: int
    ) -> ChildSa | None:
        made = self._offer
        if made is None:
            return None
        try:
            if answer.first(SecurityAssociation) is None:
                error = next((n for n in answer.all(Notify) if n.is_error), None)
                what = label(NotifyType, error.type) if error is not None else "no SA payload"
                raise ChildError(NotifyType.NO_PROPOSAL_CHOSEN, f"the peer refused the child SA: {what}")
            choice, shared = check_answer(made, answer)
        except ChildError as error:
            sa.env.event(
                "child_failed", "warning", connection=sa.connection.name, child=made.config.name,
                sa=sa.number, reason=str(error),
            )  # fmt: skip
            sa.env.done(tag, False, str(error))
            if answer.first(SecurityAssociation) is not None:
                # The responder takes it to be up.
                sa.submit(now, DeleteChild(None, made.spi_in, str(error)))
            return None
        return install(sa, now, choice, made.spi_in, (nonce_i, nonce_r), shared, we_initiated=True)


def respond_auth(sa: IkeSa, now: Now, request: Message) -> Sequence[Payload]:
    """The responder's side: check who the peer is, prove who we are, make the first child."""
    setup = sa.setup
    if setup is None or sa.initiator or sa.state is not IkeState.AUTHENTICATING:
        return (Notify(NotifyType.INVALID_SYNTAX),)
    failure = ""
    for connection in _matching(setup.candidates or (sa.connection,), request):
        try:
            identity = _check_peer(sa, now, connection, request)
        except (AuthFailure, CertificateError) as error:
            failure = failure or str(error)
            continue
        sa.connection, sa.remote_identity = connection, identity
        if not _confirmed(sa, now):
            return _refuse(sa, now, "the resumption is used up")
        return _accept(sa, now, request)
    return _refuse(sa, now, failure or "no connection is configured for these identities")


def announce_sa(sa: IkeSa) -> None:
    """Report that an IKE SA is up."""
    sa.env.event(
        "ike_sa_up",
        connection=sa.connection.name,
        sa=sa.number,
        role="initiator" if sa.initiator else "responder",
        local=str(sa.local),
        remote=str(sa.remote),
        identity=str(sa.remote_identity),
        suite=sa.suite.name,
        spi_i=sa.spi_i.hex(),
        spi_r=sa.spi_r.hex(),
    )


# --- helpers ---------------------------------------------------------------------------------------


def _confirmed(sa: IkeSa, now: Now) -> bool:
    """Whether every extension agrees that this SA is resumed, if it is."""
    grant = sa.resumed_by
    return not isinstance(grant, ext.ResumeGrant) or all(
        extension.resume_confirm(now, sa, grant) for extension in sa.env.extensions
    )


def _accept(sa: IkeSa, now: Now, request: Message) -> Sequence[Payload]:
    setup, connection = sa.setup, sa.connection
    assert setup is not None
    identity = connection.local.identity.to_payload(False)
    payloads: list[Payload] = [identity]
    try:
        proof = _prove(sa, connection, identity)
    except CryptoError as error:
        return _refuse(sa, now, str(error))
    if setup.resumption is None:
        payloads += _certificates(connection)
    payloads.append(proof)
    nonces = (setup.nonce_i, setup.nonce_r)
    contact = request.notify(NotifyType.INITIAL_CONTACT) is not None
    sa.established_now(now)
    announce_sa(sa)
    child: ChildSa | None = None
    if request.first(SecurityAssociation) is not None:
        try:
            choice, _, _ = choose(sa, request, first=True)
            spi_in = sa.env.esp_spi()
            child = install_in_turn(sa, now, choice, spi_in, nonces, b"", at_once=contact)
            payloads += answer_payloads(choice, spi_in, b"", None)
        except ChildError as error:
            sa.env.event(
                "child_failed", "warning", connection=connection.name, sa=sa.number, reason=str(error)
            )
            payloads.append(error.notify)
    payloads += sa.env.contribute(now, Slot.AUTH, sa, response=True, request=request)

    def after() -> None:
        _signal_up(sa, now, request, child, setup)
        if sa.is_closed():
            return
        if contact:
            sa.env.lifecycle.initial_contact(now, sa)
        sa.env.lifecycle.sa_established(now, sa)

    sa.after_reply.append(after)
    return payloads


def _signal_up(sa: IkeSa, now: Now, message: Message, child: ChildSa | None, setup: Setup) -> None:
    sa.env.signal(now, ext.SaEstablished(sa))
    sa.env.signal(now, ext.PeerVendorIds(sa, setup.peer_vendor_ids, setup.peer_notifies))
    sa.env.signal(now, ext.PeerNotifies(sa, Slot.AUTH, message.all(Notify)))
    if child is not None and not sa.is_closed():
        announce_child(sa, now, child, None)


def _refuse(sa: IkeSa, now: Now, why: str) -> Sequence[Payload]:
    sa.env.event(
        "authentication_failed", "warning", connection=sa.connection.name, sa=sa.number,
        remote=str(sa.remote), reason=why,
    )  # fmt: skip
    sa.env.count("authentication failures")
    sa.state = IkeState.FAILED
    sa.env.timers.arm(
        sa.number, "half-open", now.after(FAILED_LINGER_S), lambda t: sa.close(t, "authentication failed")
    )
    return (Notify(NotifyType.AUTHENTICATION_FAILED),)


def _refuse_responder(sa: IkeSa, now: Now, why: str) -> None:
    """We don't believe the responder: tell it so in an INFORMATIONAL of its own (section 2.21.2)."""
    sa.state = IkeState.DELETING
    sa.env.event("initiate_failed", "warning", connection=sa.connection.name, sa=sa.number, reason=why)
    sa.submit(now, DeleteIke("authentication failed", NotifyType.AUTHENTICATION_FAILED))
    sa.env.lifecycle.setup_failed(now, sa, f"the peer could not authenticate: {why}")


def _matching(candidates: Sequence[Connection], request: Message) -> list[Connection]:
    """The candidates whose configured identities are the ones in the request."""
    ids = request.all(Identification)
    theirs = next((i for i in ids if i.initiator), None)
    ours = next((i for i in ids if not i.initiator), None)
    if theirs is None:
        return []
    presented = Identity.from_payload(theirs)
    found = []
    for connection in candidates:
        expected = connection.remote.identity
        if expected is not None and not expected.matches(presented):
            continue
        if ours is not None and not connection.local.identity.matches(Identity.from_payload(ours)):
            continue
        found.append(connection)
    return found


def _prove(sa: IkeSa, connection: Connection, identity: Identification) -> Authentication:
    """Our AUTH payload. Raises CredentialError."""
    setup, keys = sa.setup, sa.keys
    assert setup is not None and keys is not None
    message, nonce, key = (
        (setup.request, setup.nonce_r, keys.sk_pi)
        if sa.initiator
        else (setup.response, setup.nonce_i, keys.sk_pr)
    )
    signed = signed_octets(sa.suite.prf, message, nonce, key, identity.body)
    if setup.resumption is not None:
        # RFC 5723 section 5.1: keyed with SK_pi or SK_pr itself.
        return Authentication(AuthMethod.SHARED_KEY, prf(sa.suite.prf, key, signed))
    if connection.local.auth == "psk":
        return Authentication(
            AuthMethod.SHARED_KEY, shared_key_auth(sa.suite.prf, connection.local.secret, signed)
        )
    credential = connection.local.credential
    if credential is None:
        raise CredentialError("the connection has no private key")
    method, data = credential.sign(signed, setup.peer_hashes)
    return Authentication(method, data)


def _certificates(connection: Connection) -> Sequence[Payload]:
    credential = connection.local.credential
    return credential.payloads() if connection.local.auth == "pubkey" and credential is not None else ()


def _check_peer(sa: IkeSa, now: Now, connection: Connection, message: Message) -> Identity:
    """The peer's identity, proven. Raises AuthFailure or CertificateError."""
    setup, keys = sa.setup, sa.keys
    assert setup is not None and keys is not None
    theirs = next((i for i in message.all(Identification) if i.initiator != sa.initiator), None)
    proof = message.first(Authentication)
    if theirs is None or proof is None:
        raise AuthFailure("the peer sent no identity or no AUTH payload")
    identity = Identity.from_payload(theirs)
    expected = connection.remote.identity
    if expected is not None and not expected.matches(identity):
        raise AuthFailure(f"the peer says that it is {identity}, expected is {expected}")
    nonce, key = (setup.nonce_i, keys.sk_pr) if sa.initiator else (setup.nonce_r, keys.sk_pi)
    firsts = [setup.response] if sa.initiator else setup.requests(now, sa.spi_i, sa.remote)
    failure = AuthFailure("there was no first message")
    for first in firsts:
        signed = signed_octets(sa.suite.prf, first, nonce, key, theirs.body)
        try:
            _check_proof(sa, now, connection, message, identity, proof, signed)
        except AuthFailure as error:
            failure = error
        else:
            return identity
    raise failure


def _check_proof(
    sa: IkeSa,
    now: Now,
    connection: Connection,
    message: Message,
    identity: Identity,
    proof: Authentication,
    signed: bytes,
) -> None:
    """That the peer's AUTH payload is over `signed`. Raises AuthFailure or CertificateError."""
    setup, keys = sa.setup, sa.keys
    assert setup is not None and keys is not None
    if setup.resumption is not None:
        if setup.resumed_identity is not None and setup.resumed_identity != identity:
            raise AuthFailure(f"the peer resumes as {identity}, but was {setup.resumed_identity}")
        key = keys.sk_pr if sa.initiator else keys.sk_pi
        _check_mac(proof, prf(sa.suite.prf, key, signed), "the resumed keys differ")
    elif connection.remote.auth == "psk":
        _check_shared_key(sa, connection, proof, signed)
    else:
        sa.credential_until_s = _check_signature(now, connection, message, identity, proof, signed)


def _check_shared_key(sa: IkeSa, connection: Connection, proof: Authentication, signed: bytes) -> None:
    expected = shared_key_auth(sa.suite.prf, connection.remote.secret, signed)
    _check_mac(proof, expected, "the shared keys differ")


def _check_mac(proof: Authentication, expected: bytes, otherwise: str) -> None:
    if proof.method != AuthMethod.SHARED_KEY:
        raise AuthFailure(f"the peer authenticates by method {proof.method}, a shared key is expected")
    if not hmac.compare_digest(expected, proof.data):
        raise AuthFailure(otherwise)


def _check_signature(
    now: Now,
    connection: Connection,
    message: Message,
    identity: Identity,
    proof: Authentication,
    signed: bytes,
) -> float:
    """Returns the end of the certificate's validity, Unix time."""
    trust = connection.remote.trust
    if trust is None:
        raise AuthFailure("no CA is configured for the peer")
    certificates = _peer_certificates(message)
    if not certificates:
        raise AuthFailure("the peer sent no certificate")
    leaf = certificates[0]
    if not certificate_matches(leaf, identity):
        raise CertificateError(f"the peer's certificate does not speak for {identity}")
    trust.verify(leaf, certificates[1:], now.unix_s)
    verify_signature(leaf, proof.method, proof.data, signed)
    return leaf.not_valid_after_utc.timestamp()


def _peer_certificates(message: Message) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for payload in message.all(Certificate)[:MAX_CERTIFICATES]:
        if payload.encoding == CertEncoding.X509_SIGNATURE:
            found.extend(load_certificates(payload.data))
    return found
