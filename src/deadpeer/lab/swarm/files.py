"""The configuration files of a swarm's members, and the one from which every client's is made."""

from __future__ import annotations

import secrets
from pathlib import Path

from deadpeer.lab.gateway_config import ESP_PROPOSAL, IKE_PROPOSAL, toml
from deadpeer.lab.scenarios.plan import SERVER_INNER
from deadpeer.lab.swarm.plan import SwarmPlace, SwarmPlan

CONNECTION, CHILD = "swarm", "inner"
NAME = "swarm"
"""Of the cluster: what is below /deadpeer/swarm/ in etcd is its."""
SECRET, CLUSTER_KEY = "swarm.psk", "cluster.key"
MEMBERS_ID = "swarm.lab.example"
Tables = dict[str, dict[str, object]]


def write_keys(place: SwarmPlace) -> None:
    """Fresh keys of mode 0600: the one that members and clients share, and the members' own."""
    for name in (SECRET, CLUSTER_KEY):
        path = place.directory / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n")


def write_member(place: SwarmPlace, plan: SwarmPlan, number: int, etcd: str) -> Path:
    """The file of a member. `etcd`: where it finds etcd, if it is one of a cluster."""
    host, name = place.members[number], f"m{number}"
    tables = _tables(place, plan, name, host, MEMBERS_ID)
    tables["gateway"] |= {
        "plane": "unix",
        "unix_local": place.path(f"{name}-gw"),
        "unix_peer": place.path(f"{name}-host"),
    }
    if plan.standby:
        # Each has an address of its own here, and the balancer is what moves the one that clients know.
        tables["standby"] = {
            "number": number,
            "address": host,
            "key_file": place.path(CLUSTER_KEY),
            "listen": f"{place.own[number]}:{place.forward_port}",
            "partner": f"{place.own[1 - number]}:{place.forward_port}",
            "by": "command",
        }
    else:
        tables["cluster"] = {
            "name": NAME,
            "member": number,
            "key_file": place.path(CLUSTER_KEY),
            "etcd": [etcd],
            "lease": float(plan.lease_s),
            "forward_listen": f"{host}:{place.forward_port}",
        }
    tables[f"connections.{CONNECTION}"] |= {"remote_addrs": ["%any"], "qcd": "both", "sir": "auto"}
    tables[f"connections.{CONNECTION}.remote"] = {"auth": "psk"}
    tables[f"connections.{CONNECTION}.children.{CHILD}"] |= {
        "local_ts": [f"{SERVER_INNER}/32"],
        "remote_ts": ["10.21.0.0/16"],
    }
    return _write(place, name, tables)


def write_client(place: SwarmPlace, plan: SwarmPlan) -> Path:
    """The file that every client starts from, with the addresses and the identity of the first one."""
    host = place.host(0)
    tables = _tables(place, plan, "client", host, client_id(0))
    # One echo request is kept while there is no SA: all that came meanwhile would be a flood of its own.
    tables["gateway"]["hold_packets"] = 1
    tables[f"connections.{CONNECTION}"] |= {
        "local_addrs": [host],
        "remote_addrs": [place.address],
        "remote_port": place.port,
        "remote_port_nat_t": place.port_nat_t,
        "qcd": "both" if plan.method == "qcd" else "off",
        "crash_methods": [plan.method, "liveness"],
    }
    tables[f"connections.{CONNECTION}.remote"] = {"auth": "psk", "id": MEMBERS_ID}
    tables[f"connections.{CONNECTION}.children.{CHILD}"] |= {
        "local_ts": [f"{place.inner(0)}/32"],
        "remote_ts": [f"{SERVER_INNER}/32"],
        "dpd_action": "restart",
    }
    return _write(place, "client", tables)


def client_id(number: int) -> str:
    """The identity of a client."""
    return f"c{number}.lab.example"


def _tables(place: SwarmPlace, plan: SwarmPlan, name: str, host: str, identity: str) -> Tables:
    """What members and clients have in common."""
    connection = f"connections.{CONNECTION}"
    # Where SAs are only to be there nobody is asked whether he lives: no packet would be the answer.
    idle = {"dpd_delay": 0} if plan.event == "state" else {}
    return {
        "gateway": {
            "state_dir": place.path(f"{name}-state"),
            "control": place.path(f"{name}.ctl"),
            "listen": [host],
            "port": place.port,
            "port_nat_t": place.port_nat_t,
            **({"nat_keepalive": 0} if plan.event == "state" else {}),
        },
        connection: {"proposals": [IKE_PROPOSAL], "resumption": plan.resume, **idle},
        f"{connection}.local": {"auth": "psk", "id": identity, "secret_file": place.path(SECRET)},
        f"{connection}.children.{CHILD}": {"esp_proposals": [ESP_PROPOSAL]},
    }


def _write(place: SwarmPlace, name: str, tables: Tables) -> Path:
    path = place.directory / f"{name}.toml"
    path.write_text(toml(tables))
    return path
