"""What to do with a request that meets one of ours in flight (RFC 7296 sections 2.8, 2.25): one table."""

from __future__ import annotations

from enum import Enum

from deadpeer.crypto import Entropy


class Incoming(Enum):
    """The peer's request."""

    CREATE_CHILD = "create child"
    REKEY_CHILD = "rekey child"
    REKEY_IKE = "rekey IKE SA"
    DELETE_CHILD = "delete child"
    DELETE_IKE = "delete IKE SA"


class Own(Enum):
    """Our own request in flight; "this" child is the one that the peer's request is about."""

    NOTHING = "nothing"
    CREATE_CHILD = "create child"
    REKEY_THIS_CHILD = "rekey this child"
    REKEY_OTHER_CHILD = "rekey another child"
    DELETE_THIS_CHILD = "delete this child"
    DELETE_OTHER_CHILD = "delete another child"
    REKEY_IKE = "rekey IKE SA"
    DELETE_IKE = "delete IKE SA"


class Decision(Enum):
    """What to answer."""

    PROCEED = "do as asked"
    PROCEED_AS_RIVAL = "do as asked; the nonces decide which of the two new SAs stays"
    TEMPORARY_FAILURE = "N(TEMPORARY_FAILURE)"
    ACKNOWLEDGE = "answer without a Delete payload: we are deleting it ourselves"


_P, _R, _T, _A = (
    Decision.PROCEED,
    Decision.PROCEED_AS_RIVAL,
    Decision.TEMPORARY_FAILURE,
    Decision.ACKNOWLEDGE,
)

_COLUMNS = (
    Incoming.CREATE_CHILD,
    Incoming.REKEY_CHILD,
    Incoming.REKEY_IKE,
    Incoming.DELETE_CHILD,
    Incoming.DELETE_IKE,
)

_ROWS: dict[Own, tuple[Decision, Decision, Decision, Decision, Decision]] = {
    #                        create  rekey   rekey   delete  delete
    #                        child   child   IKE     child   IKE
    Own.NOTHING:            (_P,     _P,     _P,     _P,     _P),
    Own.CREATE_CHILD:       (_P,     _P,     _T,     _P,     _P),
    Own.REKEY_THIS_CHILD:   (_P,     _R,     _T,     _P,     _P),
    Own.REKEY_OTHER_CHILD:  (_P,     _P,     _T,     _P,     _P),
    Own.DELETE_THIS_CHILD:  (_P,     _T,     _T,     _A,     _P),
    Own.DELETE_OTHER_CHILD: (_P,     _P,     _T,     _P,     _P),
    Own.REKEY_IKE:          (_T,     _T,     _R,     _P,     _P),
    Own.DELETE_IKE:         (_T,     _T,     _T,     _P,     _P),
}  # fmt: skip

TABLE: dict[tuple[Own, Incoming], Decision] = {
    (own, incoming): row[i] for own, row in _ROWS.items() for i, incoming in enumerate(_COLUMNS)
}


def decide(own: Own, incoming: Incoming) -> Decision:
    """The decision for this pair."""
    return TABLE[own, incoming]


def ours_is_redundant(own_nonces: tuple[bytes, bytes], rival_nonces: tuple[bytes, bytes]) -> bool:
    """Whether the SA that we initiated has the lowest of the four nonces and is ours to close (2.8.1).

    Nonces are compared octet by octet; a shorter one that is a prefix of the other is lower.
    """
    return min(own_nonces) < min(rival_nonces)


def retry_after_s(entropy: Entropy) -> float:
    """When to try again after TEMPORARY_FAILURE: one to three seconds, at random so that peers part."""
    return 1.0 + int.from_bytes(entropy.octets(2), "big") / 32768
