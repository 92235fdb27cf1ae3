"""The shape of the table [standby]: every key, its type, bounds, default, meaning and an example."""

from __future__ import annotations

from typing import Literal

from .shapes import Section, Text, key

MovedBy = Literal["address", "command"]


class StandbySection(Section):
    """One of two gateways with one address, which somebody else moves (keepalived, a script, a person).

    Who holds the address serves, and speaks for the SAs of the other. Sockets are opened on that address
    alone, whether or not it is ours at the moment. Without this table, and without [cluster], the gateway is
    by itself.
    """

    number: int = key(..., "Which of the two this is; the other has the other number.", "0", ge=0, le=1)
    address: Text = key(..., "The shared address, without a prefix length.", '"192.0.2.1"')
    key_file: Text = key(
        ...,
        "File of the shared keys, mode 0600, the same in both: 1 to 4 keys, one a line, each 32 octets in"
        " hexadecimal or base64. The first is in use; what was made with the others is still known.",
        '"standby.key"',
    )
    listen: Text = key(
        ...,
        "Our own address and UDP port for what the two ask each other. Best on a link that does not fail"
        " together with the one that moves the address.",
        '"192.0.2.10:4502"',
    )
    partner: Text = key(..., "The same of the other gateway.", '"192.0.2.11:4502"')
    by: MovedBy = key(
        "address",
        "How the gateway learns that the address is its own: it watches the kernel's addresses (`address`),"
        " or it is told with `deadpeer activate` and `deadpeer standby` (`command`).",
        '"address"',
    )
