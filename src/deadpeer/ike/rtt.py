"""Round trip time and retransmission intervals (RFC 6298, with a floor that suits IKE)."""

from __future__ import annotations

INITIAL_RTO_S = 0.5
MIN_MARGIN_S = 0.05
"""The floor of the variance term: RFC 6298's one second would hide a crash for ten round trips."""
MAX_RTO_S = 8.0
QUEUED = 2.0
"""A setup that took so many times the first other round trip did not measure the path."""


class RttEstimator:
    """Smoothed round trip time. Feed it only samples of requests that went out once (Karn)."""

    __slots__ = ("_of_setup", "_srtt", "_var")

    def __init__(self, initial_s: float | None = None) -> None:
        self._srtt = initial_s
        self._var = initial_s / 4 if initial_s is not None else 0.0
        self._of_setup = False

    def sample(self, rtt_s: float, *, of_setup: bool = False) -> None:
        """A request was answered after `rtt_s` seconds (RFC 6298 section 2).

        `of_setup`: the peer had to compute for it, perhaps for hundreds of others first. If that took long
        beside the first other sample, this one counts as if it were the first of all.
        """
        queued = self._of_setup and not of_setup and (self._srtt or 0.0) > QUEUED * rtt_s
        self._of_setup = of_setup
        if self._srtt is None or queued:
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
