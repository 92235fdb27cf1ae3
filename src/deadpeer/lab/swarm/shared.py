"""Everything that an etcd holds, read by its HTTP gateway."""

from __future__ import annotations

import base64
import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from deadpeer.lab.options import LabError
from deadpeer.lab.swarm.outcome import Shared

TIMEOUT_S = 10.0
ALL = base64.b64encode(b"\0").decode()
"""As the first key and as the end of a range: all keys."""


def read_all(endpoint: str) -> Shared:
    """What the etcd at `endpoint` (an http URL) holds, whoever wrote it; `ike_sas` is 0. Raises LabError."""
    connection = HTTPConnection(urlsplit(endpoint).netloc, timeout=TIMEOUT_S)
    try:
        body = json.dumps({"key": ALL, "range_end": ALL})
        connection.request("POST", "/v3/kv/range", body, {"Content-Type": "application/json"})
        answer = json.load(connection.getresponse())
        return weigh(answer)
    except (OSError, ValueError, KeyError) as error:
        raise LabError(f"etcd at {endpoint} can't be read: {error}") from None
    finally:
        connection.close()


def weigh(answer: dict[str, Any]) -> Shared:
    """The keys and octets of a range's answer. Raises KeyError or ValueError for anything else."""
    pairs = answer.get("kvs", [])
    octets = sum(len(base64.b64decode(pair[part])) for pair in pairs for part in ("key", "value"))
    return Shared(0, len(pairs), octets, int(answer["header"]["revision"]))
