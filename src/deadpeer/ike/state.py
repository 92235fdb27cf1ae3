"""The lifecycle of an IKE SA. What is in flight is kept in the windows and the queue, not here."""

from __future__ import annotations

from enum import Enum


class IkeState(Enum):
    """Where an IKE SA stands."""

    INIT_SENT = "IKE_SA_INIT sent"
    AUTHENTICATING = "authenticating"
    ESTABLISHED = "established"
    REKEYED = "rekeyed"
    """Replaced by a newer IKE SA; waits to be deleted."""
    DELETING = "deleting"
    FAILED = "failed"
    """Refused in IKE_AUTH; kept a moment to answer retransmissions."""
    CLOSED = "closed"
