"""`deadpeer check`: check a gateway's configuration and sum it up."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parser import OK, USAGE, add_json, fail, print_json

if TYPE_CHECKING:
    from deadpeer.gateway.cluster_config import ClusterOptions
    from deadpeer.gateway.config import GatewayConfig
    from deadpeer.ike.connection import ChildConfig, Connection


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "check",
        help="check a gateway's configuration and sum it up",
        description="Read a configuration and the files it names as the gateway would, and start nothing.",
        epilog="example:\n  deadpeer check /etc/deadpeer/gateway.toml\n",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the configuration file (TOML)")
    add_json(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Check; the exit status."""
    from deadpeer.gateway.config import load
    from deadpeer.gateway.errors import ConfigError

    try:
        config = load(args.config)
    except ConfigError as error:
        if args.json:
            record = {"file": error.file, "key": error.key, "problem": error.problem, "others": error.others}
            print_json({"ok": False, "error": record})
        return fail("check", error, USAGE)
    summary = summarise(config)
    if args.json:
        print_json({"ok": True, **summary})
    else:
        _print(summary, config.file)
    return OK


def summarise(config: GatewayConfig) -> dict[str, Any]:
    """The configuration in short, without anything secret."""
    options = config.gateway
    return {
        "gateway": {
            "state_dir": str(options.state_dir),
            "control": str(options.control),
            "listen": [str(host) for host in options.listen] or ["all addresses"],
            "port": options.port,
            "port_nat_t": options.port_nat_t,
            "plane": options.plane,
        },
        "connections": [_connection(connection) for connection in config.connections],
        **_shared(config),
    }


def _shared(config: GatewayConfig) -> dict[str, Any]:
    """With whom the gateway shares its SAs' fate, if with anybody."""
    if (cluster := config.cluster) is not None:
        return {"cluster": _cluster(cluster)}
    if (standby := config.standby) is not None:
        return {
            "standby": {
                "number": standby.number,
                "address": str(standby.address),
                "partner": str(standby.partner),
                "by": standby.by,
            }
        }
    return {}


def _cluster(cluster: ClusterOptions) -> dict[str, Any]:
    from deadpeer.gateway.cluster_config import cautions

    return {
        "name": cluster.name,
        "member": cluster.member,
        "etcd": list(cluster.etcd.endpoints),
        "lease_s": cluster.lease_s,
        "ttl_s": cluster.ttl_s,
        "usable_s": round(cluster.usable_s, 3),
        "spare_s": round(cluster.spare_s, 3),
        "forward": None if cluster.forward is None else str(cluster.forward),
        "warnings": list(cautions(cluster)),
    }


def _connection(connection: Connection) -> dict[str, Any]:
    from deadpeer.crash.options import qcd_of

    local, remote = connection.local, connection.remote
    summary: dict[str, Any] = {
        "name": connection.name,
        "local": f"{local.identity} ({local.auth})",
        "remote": f"{remote.identity or '%any'} ({remote.auth})",
        "local_addrs": [_network(net) for net in connection.local_addrs] or ["%any"],
        "remote_addrs": [_network(net) for net in connection.remote_addrs] or ["%any"],
        "proposals": [proposal.name for proposal in connection.proposals],
        "qcd": qcd_of(connection).roles,
        "children": [_child(child) for child in connection.children],
    }
    if local.credential is not None:
        expires = local.credential.certificate.not_valid_after_utc
        summary["certificate_until"] = expires.isoformat()
        if expires < datetime.now(UTC):
            summary["warning"] = "the certificate has expired"
    return summary


def _child(child: ChildConfig) -> dict[str, Any]:
    from deadpeer.gateway.notation import show_selector

    return {
        "name": child.name,
        "local_ts": [show_selector(selector) for selector in child.local_ts],
        "remote_ts": [show_selector(selector) for selector in child.remote_ts],
        "esp_proposals": [proposal.name for proposal in child.esp_proposals],
        "start_action": child.start_action,
        "dpd_action": child.dpd_action,
        "close_action": child.close_action,
    }


def _network(net: Any) -> str:
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def _print(summary: dict[str, Any], file: Path) -> None:
    gateway = summary["gateway"]
    print(f"{file}: good")
    print(
        f"gateway: {', '.join(gateway['listen'])}, ports {gateway['port']} and {gateway['port_nat_t']},"
        f" plane {gateway['plane']}, state in {gateway['state_dir']}"
    )
    if (cluster := summary.get("cluster")) is not None:
        forward = "no forwarding" if cluster["forward"] is None else f"forwarding at {cluster['forward']}"
        print(f"member {cluster['member']} of cluster {cluster['name']}: etcd {', '.join(cluster['etcd'])},")
        ttl, usable, spare = (f"{cluster[name]:g} s" for name in ("ttl_s", "usable_s", "spare_s"))
        print(f"  lease {cluster['lease_s']} s, within which it is written off if it dies; {forward}")
        print(f"  etcd is asked for {ttl}, of which {usable} are used: etcd may be away for {spare}")
        for warning in cluster["warnings"]:
            print(f"  warning: {warning}")
    if (standby := summary.get("standby")) is not None:
        print(
            f"gateway {standby['number']} of the two at {standby['address']}: partner {standby['partner']},"
            f" moved by {standby['by']}"
        )
    for each in summary["connections"]:
        print(f"connection {each['name']}: {each['local']} at {', '.join(each['local_addrs'])}")
        print(f"  with {each['remote']} at {', '.join(each['remote_addrs'])}, qcd {each['qcd']}")
        if "warning" in each:
            print(f"  warning: {each['warning']} ({each['certificate_until']})")
        for child in each["children"]:
            print(
                f"  child {child['name']}: {', '.join(child['local_ts'])} to {', '.join(child['remote_ts'])}"
                f" (start {child['start_action']}, dpd {child['dpd_action']}, close {child['close_action']})"
            )
