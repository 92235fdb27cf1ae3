"""The anti-replay window and the inference of extended sequence numbers (RFC 4303 section 3.4.3, appendix A).

Pure: it knows numbers only. `infer` and `check` come before the ICV is verified, `accept` only after.
"""

from .drops import Drop

_SPACE = 1 << 32
_MASK = _SPACE - 1


class ReplayWindow:
    """Which sequence numbers of one inbound SA have been seen.

    `size` is how many numbers back from the highest are remembered; 0 turns the check off (a sender's
    number is then believed to lie within 2**31 of the highest). `highest` is where the window begins;
    a new SA begins at 0, for the first packet bears the number 1.
    """

    __slots__ = ("_esn", "_mask", "_reach", "_seen", "highest", "size")

    def __init__(self, size: int, *, esn: bool, highest: int = 0) -> None:
        if size < 0 or highest < 0:
            raise ValueError("a window has no negative size or position")
        self.size = size
        self.highest = highest
        self._esn = esn
        self._reach = size or _SPACE // 2
        self._mask = (1 << size) - 1
        # Bit n stands for the number highest - n. Number 0 and what lies before the start is never fresh.
        self._seen = self._mask

    def infer(self, low: int) -> int:
        """The full sequence number of a packet that bears `low` (0..2**32-1).

        With ESN: the one number that ends in `low` and lies in the 2**32 numbers that begin with the left
        edge of the window (RFC 4303 appendix A2.2, cases A and B in one). Negative where that would be
        before the first subspace. Without ESN: `low` itself.
        """
        if not self._esn:
            return low
        left = self.highest - self._reach + 1
        return left + ((low - left) & _MASK)

    def check(self, sequence: int) -> Drop | None:
        """Why a packet with this full number must be dropped, or None where it is fresh so far."""
        behind = self.highest - sequence
        if behind < 0:
            return None if sequence <= self._last else Drop.SEQUENCE_INVALID
        if sequence == 0:
            return Drop.SEQUENCE_INVALID
        if not self.size:
            return None if sequence > 0 else Drop.TOO_OLD
        if behind >= self.size or sequence < 0:
            return Drop.TOO_OLD
        return Drop.REPLAYED if self._seen >> behind & 1 else None

    def accept(self, sequence: int) -> bool:
        """Note a number whose packet verified. True if it is the highest so far."""
        ahead = sequence - self.highest
        if ahead <= 0:
            if -ahead < self.size:
                self._seen |= 1 << -ahead
            return False
        self.highest = sequence
        if ahead >= self.size:
            self._seen = 1 & self._mask
        else:
            self._seen = (self._seen << ahead | 1) & self._mask
        return True

    @property
    def _last(self) -> int:
        return _SPACE * _SPACE - 1 if self._esn else _MASK
