"""The examples in deploy/ and docs/cluster.md: they hang together, and their configurations load.

There is no Kubernetes here: manifests are read by a small parser of the YAML that they use, and held against
what an API server would refuse first.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.manifests import objects, parse

from deadpeer.gateway.config import load
from deadpeer.gateway.schema_cluster import ClusterSection
from deadpeer.gateway.schema_standby import StandbySection

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = [
    DEPLOY / "ipvs/has-lease",
    DEPLOY / "keepalived/serving",
    DEPLOY / "standby/notify",
    DEPLOY / "nginx/members",
]
BRACED = [
    DEPLOY / "ipvs/director.conf",
    DEPLOY / "keepalived/member.conf",
    DEPLOY / "nginx/stream.conf",
    DEPLOY / "standby/keepalived.conf",
]
API = {
    "Namespace": "v1",
    "Service": "v1",
    "ConfigMap": "v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "StatefulSet": "apps/v1",
}


def test_the_parser_reads_what_yaml_says() -> None:
    text = 'a:\n  # no\n  b: 1\n  c:\n    - x: y:z\n      w: "1"\n'
    text += "    - --flag=a\n    - |\n      one\n        two\n  d: true\n"
    assert parse(text) == {
        "a": {"b": 1, "c": [{"x": "y:z", "w": "1"}, "--flag=a", "one\n  two\n"], "d": True}
    }


# --- Kubernetes --------------------------------------------------------------------------------------


def test_every_object_has_its_api_and_a_name_of_its_own() -> None:
    names = []
    for each in objects():
        assert each["apiVersion"] == API[each["kind"]]
        metadata = each["metadata"]
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", metadata["name"])
        assert metadata.get("namespace") == (None if each["kind"] == "Namespace" else "deadpeer")
        assert set(each) <= {"apiVersion", "kind", "metadata", "spec", "data"}
        names.append((each["kind"], metadata["name"]))
    assert len(set(names)) == len(names)
    assert {kind for kind, _ in names} == set(API)


def _sets() -> list[Any]:
    return [each for each in objects() if each["kind"] == "StatefulSet"]


@pytest.mark.parametrize("name", ["etcd", "deadpeer"])
def test_what_refers_to_something_finds_it(name: str) -> None:
    [found] = [each for each in _sets() if each["metadata"]["name"] == name]
    spec, pod = found["spec"], found["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    [service] = [
        e for e in objects() if e["kind"] == "Service" and e["metadata"]["name"] == spec["serviceName"]
    ]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= labels.items()
    budgets = [e["spec"] for e in objects() if e["kind"] == "PodDisruptionBudget"]
    assert [b["maxUnavailable"] for b in budgets if b["selector"]["matchLabels"] == labels] == [1]
    volumes = [v["name"] for v in pod["spec"].get("volumes", [])]
    volumes += [v["metadata"]["name"] for v in spec.get("volumeClaimTemplates", [])]
    assert len(set(volumes)) == len(volumes)
    mounted = set()
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.]*", container["image"]), "an image has a version"
        mounted |= {mount["name"] for mount in container["volumeMounts"]}
        given = {variable["name"] for variable in container.get("env", [])}
        for argument in container["command"]:
            assert set(re.findall(r"\$\((\w+)\)", argument)) <= given
    assert mounted == set(volumes)
    for volume in pod["spec"].get("volumes", []):
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in [
                (e["kind"], e["metadata"]["name"]) for e in objects()
            ]


def test_the_pods_configuration_is_that_of_its_ordinal_and_node(tmp_path: Path) -> None:
    [found] = [each for each in objects() if each["kind"] == "ConfigMap"]
    text = found["data"]["gateway.toml"].replace("@MEMBER@", "1").replace("@NODE@", "192.0.2.12")
    assert "@" not in text
    cluster = _loaded(tmp_path, text)
    assert (cluster.member, str(cluster.forward)) == (1, "192.0.2.12:4501")
    [service] = [e for e in objects() if e["metadata"]["name"] == "etcd-client"]
    assert cluster.etcd.endpoints == (
        f"http://etcd-client.deadpeer.svc:{service['spec']['ports'][0]['port']}",
    )


def test_the_address_is_where_the_manifest_says() -> None:
    text = (DEPLOY / "kubernetes/gateway.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(line.count("203.0.113.10") for line in lines) == 3


# --- the others --------------------------------------------------------------------------------------


def test_the_member_loads(tmp_path: Path) -> None:
    cluster = _loaded(tmp_path, (DEPLOY / "member/gateway.toml").read_text())
    assert len(cluster.etcd.endpoints) == 3
    assert str(cluster.forward) == "192.0.2.11:4501"


def test_the_keys_in_the_document_are_those_of_the_schema() -> None:
    texts = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert texts
    for text in texts:
        tables = tomllib.loads(text)
        assert set(tables.get("cluster", {})) <= set(ClusterSection.model_fields)
        assert set(tables.get("standby", {})) <= set(StandbySection.model_fields)


def test_one_of_two_loads(tmp_path: Path) -> None:
    standby = _config(tmp_path, (DEPLOY / "standby/gateway.toml").read_text()).standby
    assert standby is not None
    assert (standby.number, str(standby.listen), str(standby.partner)) == (
        0,
        "192.0.2.11:4502",
        "192.0.2.12:4502",
    )


def _loaded(place: Path, text: str) -> Any:
    cluster = _config(place, text).cluster
    assert cluster is not None
    return cluster


def _config(place: Path, text: str) -> Any:
    for name, content in {
        "cluster.key": "5a" * 32,
        "standby.key": "5a" * 32,
        "clients.psk": "correct horse battery staple",
        "etcd.password": "secret",
        "etcd-ca.pem": "-----BEGIN CERTIFICATE-----\n",
    }.items():
        (place / name).touch(mode=0o600)
        (place / name).write_text(content)
    (place / "gateway.toml").write_text(text)
    return load(place / "gateway.toml")


@pytest.mark.parametrize("file", BRACED, ids=lambda path: path.name)
def test_braces_are_closed(file: Path) -> None:
    depth = 0
    for line in file.read_text().splitlines():
        code = line.partition("#")[0]
        for brace in re.findall(r"[{}]", code):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(file: Path) -> None:
    assert os.access(file, os.X_OK)
    subprocess.run(["sh", "-n", str(file)], check=True)


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("echo /deadpeer/edge/lease/1", 0),
        ("true", 1),
        ("exit 1", 0),
        ("sleep 600", 0),
    ],
    ids=["a lease", "no lease", "etcd is away", "etcd is silent"],
)
def test_a_director_takes_out_who_has_no_lease(tmp_path: Path, says: str, code: int) -> None:
    assert _run(tmp_path, "etcdctl", says, SCRIPTS[0], "1") == code


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("""echo '{"ok": true, "sas": [], "cluster": {"serving": true}}'""", 0),
        ("""echo '{"ok": true, "sas": [], "cluster": {"serving": false}}'""", 1),
        ("exit 1", 1),
    ],
    ids=["serves", "fenced", "not there"],
)
def test_an_address_stays_with_who_serves(tmp_path: Path, says: str, code: int) -> None:
    assert _run(tmp_path, "deadpeer", says, SCRIPTS[1]) == code


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("MASTER", "activate"),
        ("BACKUP", "standby"),
        ("FAULT", "standby"),
        ("STOP", "standby"),
        ("DELETED", ""),
    ],
)
def test_the_gateway_is_told_that_the_address_has_moved(tmp_path: Path, state: str, told: str) -> None:
    assert (
        _run(tmp_path, "deadpeer", f'echo "$@" > {tmp_path}/told', SCRIPTS[2], "INSTANCE", "edge", state) == 0
    )
    found = tmp_path / "told"
    assert (found.read_text().strip() if found.exists() else "") == told
    found.unlink(missing_ok=True)
    assert _run(tmp_path, "deadpeer", f'echo "$@" > {tmp_path}/told', SCRIPTS[2]) == 0
    assert found.read_text().strip() == (told or "standby"), "the check tells it again"


def test_the_check_fails_where_the_gateway_does_not_answer(tmp_path: Path) -> None:
    assert _run(tmp_path, "deadpeer", "exit 1", SCRIPTS[2]) == 1


@pytest.mark.parametrize(
    ("without", "marked"),
    [((), ()), ((0,), (0,)), ((1,), (1,)), ((0, 1), ()), ((0, 0), ())],
    ids=["all live", "the first", "the second", "nobody would be left", "is back when it looks again"],
)
def test_nginx_sends_nothing_to_who_has_no_lease(
    tmp_path: Path, without: tuple[int, ...], marked: tuple[int, ...]
) -> None:
    before = (DEPLOY / "nginx/stream.conf").read_text()
    (tmp_path / "stream.conf").write_text(before)
    back = len(without) != len(set(without))
    says = f'case "{" ".join(map(str, without))}" in *$1*) test -e {tmp_path}/looked;; esac || {{ '
    says += f"touch {tmp_path}/looked; exit 1; }}" if back else "exit 1; }"
    (tmp_path / "has-lease").write_text(f"#!/bin/sh\n{says}\n")
    (tmp_path / "has-lease").chmod(0o755)
    with subprocess.Popen(["sleep", "60"]) as nginx:
        (tmp_path / "pid").write_text(f"{nginx.pid}\n")
        environment = {**os.environ, "NGINX_PID": str(tmp_path / "pid"), "LOOK_AGAIN": "0"}
        script = [DEPLOY / "nginx/members", tmp_path / "stream.conf", tmp_path / "has-lease"]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        if not marked:
            nginx.terminate()
        assert nginx.wait(20) == -(signal.SIGHUP if marked else signal.SIGTERM)
    lines = zip(before.splitlines(), (tmp_path / "stream.conf").read_text().splitlines(), strict=True)
    changed = [(old, new) for old, new in lines if old != new]
    assert all(new == old.replace(";", " down;") for old, new in changed)
    assert [old.rpartition("member ")[2] for old, _ in changed] == [str(number) for number in marked * 2]


def _run(place: Path, command: str, says: str, script: Path, *arguments: str) -> int:
    (place / command).write_text(f"#!/bin/sh\n{says}\n")
    (place / command).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{place}:{os.environ['PATH']}",
        "DEADPEER_TOLD": str(place / "last-told"),
    }
    done = subprocess.run([script, *arguments], env=environment, capture_output=True, check=False)
    return done.returncode
