"""deploy/kubernetes without Kubernetes: what the kubelet would do with the gateways' pods, done by hand.

Two nodes with a pod each. Their volumes are mounted where the manifest mounts them, in a root of their own;
the init container's script, the gateway and its readiness probe run there with the capabilities that the
manifest leaves them. The client reaches the address by way of a node, as a balancer that leaves addresses
alone would have it.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from tests.deploy.machines import Lan, Ping, client_files, ip, lan, needs, until
from tests.deploy.manifests import objects

pytestmark = needs("etcd", "ping", "setpriv", "chroot")
SHARED = "203.0.113.10"


class Pod:
    """One of the StatefulSet's, with an ordinal, on a node."""

    def __init__(self, network: Lan, ordinal: int) -> None:
        self.node_address = f"203.0.113.{11 + ordinal}"
        self.node = network.machine(f"node{ordinal}", eth0=[f"{self.node_address}/24"])
        self.ordinal = ordinal
        [self._set] = [
            each
            for each in objects()
            if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "deadpeer"
        ]
        self._volumes = {v["name"]: self._volume(v) for v in self._set["spec"]["template"]["spec"]["volumes"]}
        hosts = Path("/etc/hosts").read_text() + "203.0.113.21 etcd-client.deadpeer.svc\n"
        self.node.install("opt/hosts", hosts)

    def configure(self) -> None:
        """The init container, to its end."""
        [container] = self._spec["initContainers"]
        done = self.node.run(*self._inside(container, container["command"]))
        assert done.returncode == 0, done.stderr + done.stdout

    def start(self) -> None:
        [container] = self._spec["containers"]
        self.node.spawn("gateway", self.node.command(*self._inside(container, container["command"])))

    def ready(self) -> bool:
        """What the readiness probe says."""
        [container] = self._spec["containers"]
        probe = container["readinessProbe"]["exec"]["command"]
        return self.node.run(*self._inside(container, probe)).returncode == 0

    def counters(self) -> dict[str, Any]:
        [container] = self._spec["containers"]
        done = self.node.run(*self._inside(container, ["deadpeer", "counters"]))
        assert done.returncode == 0, done.stderr
        return {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()}

    @property
    def _spec(self) -> Any:
        return self._set["spec"]["template"]["spec"]

    def _volume(self, volume: dict[str, Any]) -> Path:
        """A directory (or a device) with what the kubelet would put there."""
        if "hostPath" in volume and volume["hostPath"]["type"] == "CharDevice":
            return Path(volume["hostPath"]["path"])
        place = self.node.place / "volumes" / str(volume["name"])
        place.mkdir(parents=True)
        if "emptyDir" in volume:
            place.chmod(0o777)
        if "configMap" in volume:
            [found] = [each for each in objects() if each["kind"] == "ConfigMap"]
            assert found["metadata"]["name"] == volume["configMap"]["name"]
            for name, text in found["data"].items():
                # A shorter lease, to wait less for a number that nobody has ever had.
                (place / name).write_text(text.replace('lease = "5s"', 'lease = "4s"'))
        if "secret" in volume:
            for name, text in (("cluster.key", "7e" * 32 + "\n"), ("clients.psk", "only for this test\n")):
                (place / name).touch(mode=volume["secret"]["defaultMode"])
                (place / name).write_text(text)
        return place

    def _inside(self, container: dict[str, Any], words: list[str]) -> list[str]:
        """The command line that runs these words as the container would."""
        script = "set -e; mount -t tmpfs -o mode=755 none /mnt; "
        for entry in sorted(Path("/").iterdir()):
            there = f"/mnt/{entry.name}"
            if entry.is_symlink():
                script += f"ln -s '{entry.readlink()}' '{there}'; "
            elif entry.is_dir() and entry.name not in ("mnt", "run", "var"):
                script += f"mkdir '{there}'; mount --rbind '{entry}' '{there}'; "
        script += "mount --bind /opt/hosts /mnt/etc/hosts; "
        for mount in container["volumeMounts"]:
            here, there = self._volumes[mount["name"]], f"/mnt{mount['mountPath']}"
            if here.is_dir():
                script += f"mkdir -p '{there}'; "
            script += f"mount --bind '{here}' '{there}'; "
            if mount.get("readOnly"):
                script += f"mount -o remount,bind,ro '{there}'; "
        given = {"metadata.name": f"deadpeer-{self.ordinal}", "status.hostIP": self.node_address}
        for variable in container.get("env", []):
            value = given[variable["valueFrom"]["fieldRef"]["fieldPath"]]
            script += f"export {variable['name']}={value}; "
        rights = container["securityContext"]["capabilities"]
        assert rights["drop"] == ["ALL"]
        left = "".join(f",+{right.lower()}" for right in rights["add"])
        limit = ["setpriv", "--inh-caps=-all", f"--bounding-set=-all{left}"]
        return ["sh", "-c", script + shlex.join(["exec", "chroot", "/mnt", *limit, *words])]


def test_pods_configure_themselves_serve_and_hand_on(place: Path) -> None:
    with lan(place) as network:
        etcd = network.machine("etcd", eth0=["203.0.113.21/24"])
        client = network.machine("client", eth0=["203.0.113.7/24"])
        pods = [Pod(network, ordinal) for ordinal in (0, 1)]
        client_files(client, "203.0.113.7", SHARED)
        words = ["env", "ETCD_UNSUPPORTED_ARCH=arm64", "etcd", "--data-dir=/var/lib/etcd"]
        words += [
            "--listen-client-urls=http://0.0.0.0:2379",
            "--advertise-client-urls=http://203.0.113.21:2379",
        ]
        etcd.spawn("etcd", etcd.command(*words))
        for pod in pods:
            pod.configure()
            pod.start()
        for pod in pods:
            until(pod.ready, network.logs)
        ip("-n", client.namespace, "route", "add", SHARED, "via", "203.0.113.11")
        client.start_gateway()
        client.wait_for("child_up")
        ping = Ping(client, "10.1.0.1", "10.10.2.1")
        ping.flows()

        # The balancer brings the client to the other node.
        since = time.time()
        ip("-n", client.namespace, "route", "replace", SHARED, "via", "203.0.113.12")
        until(lambda: pods[1].counters().get("forwarding.sent"), network.logs)
        ping.flows()
        print(f"moved: {ping.gap_s(since):.2f} s, {ping.lost()} lost")
        assert not [event for event in client.events() if event["event"] == "verdict"]
