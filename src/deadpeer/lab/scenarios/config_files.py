"""The configuration files of a cluster's members and of its clients."""

from __future__ import annotations

import secrets
from pathlib import Path

from deadpeer.lab.gateway_config import ESP_PROPOSAL, IKE_PROPOSAL, toml
from deadpeer.lab.scenarios.plan import SERVER_INNER, SKEWED, ClientPlace, ClusterPlan, Layout

CONNECTION, CHILD = "cluster", "inner"
SECRET, CLUSTER_KEY = "lab.psk", "cluster.key"
MEMBERS_ID = "cluster.lab.example"
Tables = dict[str, dict[str, object]]


def write_keys(layout: Layout) -> None:
    """Fresh keys of mode 0600: the one that members and clients share, and the members' own."""
    for name in (SECRET, CLUSTER_KEY):
        path = layout.directory / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n")


def write_member(layout: Layout, plan: ClusterPlan, number: int, etcd: str = "") -> Path:
    """The file of a member. `etcd`: where it finds etcd, if it is one of a cluster."""
    host = layout.members[number]
    tables = _tables(layout, f"m{number}", host, MEMBERS_ID, None)
    # The clock of the lease can be made to run wrong.
    tables["gateway"]["faults"] = not SKEWED.isdisjoint(plan.happenings)
    if plan.standby:
        # Each has an address of its own here, and the balancer is what moves the one that clients know.
        tables["standby"] = {
            "number": number,
            "address": host,
            "key_file": layout.path(CLUSTER_KEY),
            "listen": f"{layout.own[number]}:{layout.forward_port}",
            "partner": f"{layout.own[1 - number]}:{layout.forward_port}",
            "by": "command",
        }
    else:
        tables["cluster"] = {
            "name": "lab",
            "member": number,
            "key_file": layout.path(CLUSTER_KEY),
            "etcd": [etcd],
            "lease": float(plan.lease_s),
            "forward": plan.forward,
            "forward_listen": f"{host}:{layout.forward_port}",
            "forward_advertise": f"{layout.own[number]}:{layout.forward_port}",
        }
    tables[f"connections.{CONNECTION}"]["remote_addrs"] = ["%any"]
    tables[f"connections.{CONNECTION}.children.{CHILD}"] |= {
        "local_ts": [f"{SERVER_INNER}/32"],
        "remote_ts": ["10.21.0.0/16"],
    }
    return _write(layout, f"m{number}", tables)


def write_client(layout: Layout, plan: ClusterPlan, place: ClientPlace) -> Path:
    """The file of a client."""
    name = f"c{place.number}"
    tables = _tables(layout, name, place.host, f"{name}.lab.example", MEMBERS_ID)
    tables[f"connections.{CONNECTION}"] |= {
        "local_addrs": [place.host],
        "remote_addrs": [layout.address],
        "remote_port": layout.port,
        "remote_port_nat_t": layout.port_nat_t,
        "qcd": "both" if plan.method == "qcd" else "off",
        "crash_methods": [plan.method, "liveness"],
        "redirect": place.follows,
    }
    tables[f"connections.{CONNECTION}.children.{CHILD}"] |= {
        "local_ts": [f"{place.inner}/32"],
        "remote_ts": [f"{SERVER_INNER}/32"],
        "start_action": "start",
        "dpd_action": "restart",
        # Who is deleted and not redirected comes back of itself.
        "close_action": "start",
    }
    return _write(layout, name, tables)


def _tables(layout: Layout, name: str, host: str, identity: str, remote: str | None) -> Tables:
    """What members and clients have in common."""
    connection = f"connections.{CONNECTION}"
    peer: dict[str, object] = {"auth": "psk"} if remote is None else {"auth": "psk", "id": remote}
    return {
        "gateway": {
            "state_dir": layout.path(f"{name}-state"),
            "control": layout.path(f"{name}.ctl"),
            "listen": [host],
            "port": layout.port,
            "port_nat_t": layout.port_nat_t,
            "plane": "unix",
            "unix_local": layout.path(f"{name}-gw"),
            "unix_peer": layout.path(f"{name}-host"),
        },
        connection: {"proposals": [IKE_PROPOSAL], "qcd": "both", "sir": "auto"},
        f"{connection}.local": {"auth": "psk", "id": identity, "secret_file": layout.path(SECRET)},
        f"{connection}.remote": peer,
        f"{connection}.children.{CHILD}": {"esp_proposals": [ESP_PROPOSAL]},
    }


def _write(layout: Layout, name: str, tables: Tables) -> Path:
    path = layout.directory / f"{name}.toml"
    path.write_text(toml(tables))
    return path
