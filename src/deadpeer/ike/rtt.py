"""Round trip time and retransmission intervals (RFC 6298, with a floor that suits IKE)."""

from __future__ import annotations

INITIAL_RTO_S = 0.5
MIN_MARGIN_S = 0.05
"""The floor of the variance term: RFC 6298's one second would hide a crash for ten round trips."""
MAX_RTO_S = 8.0


class RttEstimator:
    """Smoothed round trip time. Feed it only samples of requests that went out once (Karn)."""

    __slots__ = ("_srtt", "_var")

    def __init__(self, initial_s: float | None = None) -> None:
        self._srtt = initial_s
        self._var = initial_s / 4 if initial_s is not None else 0.0

    def sample(self, rtt_s: float) -> None:
        """A request was answered after `rtt_s` seconds (RFC 6298 section 2)."""
        if self._srtt is None:
            self._srtt, self._var = rtt_s, rtt_s / 2
            return
        self._var += (abs(self._srtt - rtt_s) - self._var) / 4
        self._srtt += (rtt_s - self._srtt) / 8

    @property
    def smoothed_s(self) -> float | None:
        """Seconds, or None before the first sample."""
        return self._srtt

    @property
    def rto_s(self) -> float:
        """The first retransmission interval, seconds."""
        if self._srtt is None:
            return INITIAL_RTO_S
        return min(self._srtt + max(4 * self._var, MIN_MARGIN_S), MAX_RTO_S)


def interval_s(rto_s: float, attempts: int, cap_s: float) -> float:
    """How long to wait after transmission number `attempts` (1 is the first): exponential, capped."""
    return min(rto_s * float(1 << min(attempts - 1, 16)), max(cap_s, MIN_MARGIN_S))
