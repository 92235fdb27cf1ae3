"""How numbers are written for people. Pure."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
NONE = "\N{EM DASH}"
NARROW = "\N{NO-BREAK SPACE}"


def duration(ms: float) -> str:
    """Milliseconds with three digits or so, from a second on as seconds."""
    size = abs(ms)
    if size >= 100_000:
        text = f"{size / 1000:.0f}{NARROW}s"
    elif size >= 10_000:
        text = f"{size / 1000:.1f}{NARROW}s"
    elif size >= 1000:
        text = f"{size / 1000:.2f}{NARROW}s"
    elif size >= 10:
        text = f"{size:.0f}{NARROW}ms"
    else:
        text = f"{size:.1f}{NARROW}ms"
    return (MINUS if ms < 0 and text[0] != "0" else "") + text


def cpu(us: float) -> str:
    """Microseconds of CPU, from a millisecond on as milliseconds."""
    return f"{us / 1000:.2f}{NARROW}ms" if us >= 1000 else f"{us:.0f}{NARROW}\N{MICRO SIGN}s"


def round_trips(ms: float, rtt_ms: float) -> str:
    """How many round trips that is; empty if the link has none."""
    if not rtt_ms:
        return ""
    count = ms / rtt_ms
    return f"{MINUS if count < 0 else ''}{abs(count):.1f}"


def octets(count: float) -> str:
    """Octets, rounded to whole ones."""
    return f"{round(count):,}".replace(",", NARROW)


def number(value: float) -> str:
    """A count, or a mean of counts: no decimals that say nothing."""
    return f"{value:g}" if value == round(value) else f"{value:.1f}"


def span(low: str, high: str) -> str:
    """From one to the other; one of them if they read the same. The unit is written once."""
    if low == high:
        return low
    head, unit = _split(low)
    return f"{head}{DASH}{high}" if unit == _split(high)[1] else f"{low} {DASH} {high}"


def pair(one: str, other: str) -> str:
    """Alice's and Bob's. The unit is written once."""
    head, unit = _split(one)
    return f"{head} / {other}" if unit == _split(other)[1] else f"{one} / {other}"


def _split(text: str) -> tuple[str, str]:
    """The number and its unit."""
    head, _, unit = text.rpartition(NARROW)
    return head, unit
