"""What the codec raises. Nothing else leaves this room, whatever octets come in."""


class WireError(ValueError):
    """Octets that are no valid message, or a value that has no valid octets.

    `where` names the structure and, when decoding, the octet offset; `what` says what is wrong there.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class UnsupportedCriticalPayload(WireError):  # noqa: N818 - named as the RFC names the condition
    """An unknown payload with the critical bit set (RFC 7296 section 2.5)."""

    def __init__(self, where: str, payload_type: int) -> None:
        super().__init__(where, f"payload type {payload_type} is critical and not known")
        self.payload_type = payload_type

    def __reduce__(self) -> tuple[type["UnsupportedCriticalPayload"], tuple[str, int]]:
        return type(self), (self.where, self.payload_type)
