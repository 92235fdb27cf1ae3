"""Python's collector of cycles, kept from standing in the way of hundreds of peers.

By default it looks at everything again whenever there is a quarter more of it: a gateway with 3,000 IKE SAs
stood still for 0.1 to 0.2 s each time, and it is the longer the more there are. SAs are in
no cycle once they are closed (a test says so), and go without it. So what has been looked at once, and stays,
is not looked at again until a life is over. Then all of it goes, in one piece, and at once: the collector by
itself would come after four million objects, which is several lives of hundreds of SAs each.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping

_THRESHOLDS = (10_000, 20, 20)
"""By default it looks at the youngest after 700 objects, which is one new SA."""
_OLDEST = 2


def spare() -> None:
    """Look at what is there now no more, and from now on once at what comes and stays."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    if _after not in gc.callbacks:
        gc.callbacks.append(_after)


def look_again() -> None:
    """Much has gone: all is looked at, which takes some 0.5 µs for each object, 0.2 s for 500 SAs."""
    gc.unfreeze()
    gc.collect()


def _after(phase: str, info: Mapping[str, int]) -> None:
    if phase == "stop" and info["generation"] == _OLDEST:
        gc.freeze()
