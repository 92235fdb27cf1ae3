"""Where copies of one gateway and their clients live: addresses, configuration files, copied state. Pure but
for the files.

A copy is what somebody makes who knows that gateways which are to stand in for each other need the same
secrets, and not that they need to know of each other's SAs: the same configuration and the same state
directory, on several machines. Neither `[cluster]` nor `[standby]` is in it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from deadpeer.lab.gateway_config import ESP_PROPOSAL, IKE_PROPOSAL, toml
from deadpeer.lab.options import LabError, Method
from deadpeer.lab.relay import Face, RelayConfig
from deadpeer.lab.scenarios import config_files
from deadpeer.lab.scenarios.plan import SERVER_INNER, ClientPlace, ClusterPlan, Layout
from deadpeer.lab.trace import Lane
from deadpeer.values import Address

MAX_CLIENTS = 16
"""Each needs three addresses of one network."""


@dataclass(frozen=True, slots=True)
class CopiesPlan:
    """`method`: how clients find out. `rtt_ms`: of the way between each client and the balancer.

    `ask_s`: attackers ask for so long, seconds; `rounds`: what they got is presented so often to each client.
    """

    method: Method = "qcd"
    gateways: int = 2
    clients: int = 2
    rtt_ms: float = 20.0
    ask_s: float = 2.0
    rounds: int = 2
    interval_ms: float = 20.0
    seed: int = 0

    def check(self) -> None:
        """Raise LabError (usage) for values that can't be run."""
        self.cluster.check()
        if self.clients > MAX_CLIENTS or self.method not in ("qcd", "sir"):
            raise LabError(f"{self.clients} clients that find out by {self.method} can't be run", usage=True)

    @property
    def cluster(self) -> ClusterPlan:
        """The same sizes in the terms of a cluster, for what the two have in common."""
        return ClusterPlan(
            self.gateways, self.clients, interval_ms=self.interval_ms, seed=self.seed, method=self.method
        )


def client_host(place: Layout, client: ClientPlace) -> str:
    """The address of a client's gateway. The one of `client` is where the relay stands for it."""
    return f"{_net(place)}.{190 + client.number}"


def balancer_for(place: Layout, client: ClientPlace) -> str:
    """The address that a client takes for the gateways': a relay that leads to the balancer."""
    return f"{_net(place)}.{210 + client.number}"


def thief_host(place: Layout) -> str:
    """The address of the one who buys and presents; those who only ask have another one."""
    return f"{_net(place)}.251"


def relay_config(place: Layout, plan: CopiesPlan, client: ClientPlace) -> RelayConfig:
    """The link between a client and the balancer; it shows IKE messages, and takes forgeries."""
    lanes = {
        lane: (
            Face(Address(balancer_for(place, client), port), Address(client_host(place, client), port)),
            Face(Address(client.host, port), Address(place.address, port)),
        )
        for lane, port in ((Lane.IKE, place.port), (Lane.NAT_T, place.port_nat_t))
    }
    inject = place.path(f"forge-{client.number}")
    return RelayConfig(plan.rtt_ms, 0.0, plan.seed + client.number, lanes, tap=True, inject=inject)


def write_client(place: Layout, plan: CopiesPlan, client: ClientPlace) -> Path:
    """The configuration file of a client."""
    near = replace(place, address=balancer_for(place, client))
    return config_files.write_client(near, plan.cluster, replace(client, host=client_host(place, client)))


def write_gateway(place: Layout, number: int) -> Path:
    """The configuration file of one gateway: the same for all, but for what is this machine's own."""
    connection = f"connections.{config_files.CONNECTION}"
    tables: dict[str, dict[str, object]] = {
        "gateway": {
            "state_dir": str(state_directory(place, number)),
            "control": place.path(f"m{number}.ctl"),
            "listen": [place.members[number]],
            "port": place.port,
            "port_nat_t": place.port_nat_t,
            "plane": "unix",
            "unix_local": place.path(f"m{number}-gw"),
            "unix_peer": place.path(f"m{number}-host"),
        },
        connection: {"remote_addrs": ["%any"], "proposals": [IKE_PROPOSAL], "qcd": "both", "sir": "auto"},
        f"{connection}.local": {
            "auth": "psk",
            "id": config_files.MEMBERS_ID,
            "secret_file": place.path(config_files.SECRET),
        },
        f"{connection}.remote": {"auth": "psk"},
        f"{connection}.children.{config_files.CHILD}": {
            "esp_proposals": [ESP_PROPOSAL],
            "local_ts": [f"{SERVER_INNER}/32"],
            "remote_ts": ["10.21.0.0/16"],
        },
    }
    path = place.directory / f"m{number}.toml"
    path.write_text(toml(tables))
    return path


def state_directory(place: Layout, number: int) -> Path:
    """What of a gateway survives a crash."""
    return place.directory / f"m{number}-state"


def copy_state(place: Layout) -> None:
    """Give all gateways the state directory of the first one, as it is."""
    first = state_directory(place, 0)
    for number in range(1, len(place.members)):
        shutil.copytree(first, state_directory(place, number))


def _net(place: Layout) -> str:
    return place.address.rpartition(".")[0]
