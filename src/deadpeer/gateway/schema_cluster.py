"""The shape of the table [cluster]: every key, its type, bounds, default, meaning and an example."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from deadpeer.cluster.steps import LEAST_LEASE_S

from .shapes import Burst, Seconds, Section, Strings, Text, key

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError(
            f'"{value[:60]}" can\'t be a name: it must be 1 to 64 letters, digits, ".", - and _, and'
            " begin with a letter, digit or _"
        )
    return value


class ClusterSection(Section):
    """Membership of a cluster whose members share their secrets and leases through etcd (3.4 or newer).

    Without this table the gateway is by itself. Needs the extra `cluster`: pip install 'deadpeer[cluster]'.
    """

    name: Annotated[Text, AfterValidator(_name)] = key(
        ...,
        "Name of the cluster, the same in all members: its keys in etcd are below /deadpeer/NAME/.",
        '"edge"',
    )
    member: int = key(..., "Number of this member, another one in each.", "0", ge=0, le=255)
    key_file: Text = key(
        ...,
        "File of the cluster key, mode 0600, the same in all members: 32 octets in hexadecimal or base64."
        " What the members share is sealed with it, so that etcd can't read it.",
        '"cluster.key"',
    )
    etcd: Strings = key(
        ...,
        "etcd's endpoints. They are asked in turn; host names are looked up here.",
        '["http://127.0.0.1:2379"]',
        min_length=1,
    )
    etcd_ca: Text | None = key(
        None, "With https: file of the certification authority of etcd's servers. PEM.", '"etcd-ca.pem"'
    )
    etcd_cert: Text | None = key(None, "With https: file of our certificate for etcd. PEM.", '"etcd.pem"')
    etcd_key: Text | None = key(
        None, "With https: file of its private key, mode 0600. PEM, without a passphrase.", '"etcd.key"'
    )
    etcd_user: Text | None = key(None, "Name by which we log in to etcd.", '"deadpeer"')
    etcd_password_file: Text | None = key(
        None, "File of the password for it, mode 0600. One newline at its end is left out.", '"etcd.password"'
    )
    lease: Seconds = key(
        5.0,
        "Within so many seconds after its death a member is written off by the others, and then its clients"
        " hear of it. A whole number; etcd is asked for a lease of one second less.",
        '"5s"',
        ge=LEAST_LEASE_S,
        le=3600,
    )
    margin: Seconds = key(
        0.25,
        "A member stops so long before etcd could end its lease, for what lies between its looking at the"
        " clock and the packet on the wire.",
        '"250ms"',
    )
    drift: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = key(
        0.01,
        "How much faster one member's clock may run than another's or etcd's, as a share. A member that finds"
        " its own slower than that serves nobody.",
        "0.01",
    )
    forward: bool = key(
        True, "Hand packets of another member's living SAs to that member, and take such packets.", "true"
    )
    forward_listen: Text | None = key(
        None,
        "With forward: our address and UDP port for packets that other members hand to us. They are told it.",
        '"192.0.2.10:4501"',
    )
    forward_advertise: Text | None = key(
        None,
        "With forward: the address and UDP port that the other members are told, where something in between"
        " translates it. Default: forward_listen.",
        '"198.51.100.10:4501"',
    )
    forward_rate: Burst = key(
        20_000.0, "Packets a second that we hand to other members at most; more are dropped.", "20000.0"
    )
