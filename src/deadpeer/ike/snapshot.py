"""What `sas` shows of an SA: plain values, no secrets."""

from __future__ import annotations

from deadpeer.ike.sa import IkeSa
from deadpeer.ike.selectors import text
from deadpeer.values import Now


def describe(sa: IkeSa, now: Now) -> dict[str, object]:
    """An IKE SA and its children as JSON-able values; ages in seconds, SPIs in hexadecimal."""
    return {
        "sa": sa.number,
        "connection": sa.connection.name,
        "state": sa.state.value,
        "role": "initiator" if sa.initiator else "responder",
        "local": str(sa.local),
        "remote": str(sa.remote),
        "identity": str(sa.remote_identity) if sa.remote_identity is not None else None,
        "spi_i": sa.spi_i.hex(),
        "spi_r": sa.spi_r.hex(),
        "suite": sa.suite.name if sa.keys is not None else None,
        "age_s": _age(sa.established_ns, now),
        "heard_s": _age(sa.last_heard_ns, now),
        "rtt_ms": round(sa.rtt_s * 1000, 3) if sa.rtt_s is not None else None,
        "children": [
            {
                "child": child.name,
                "number": child.number,
                "policy": child.policy,
                "state": child.state.value,
                "spi_in": f"{child.spi_in:08x}",
                "spi_out": f"{child.spi_out:08x}",
                "suite": child.suite.name,
                "local_ts": [text(s) for s in child.local_ts],
                "remote_ts": [text(s) for s in child.remote_ts],
                "age_s": _age(child.created_ns, now),
            }
            for child in sa.children.values()
        ],
    }


def _age(since_ns: int | None, now: Now) -> float | None:
    return None if since_ns is None else round((now.mono_ns - since_ns) / 1e9, 3)
