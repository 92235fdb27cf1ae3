"""The table [cluster]: what needs several keys, or another file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.documents import base_cluster, base_document, write_config

from deadpeer.cli import main
from deadpeer.gateway.cluster_config import ClusterOptions, cautions
from deadpeer.gateway.config import ConfigError, load
from deadpeer.values import Address

PEM = "-----BEGIN CERTIFICATE-----\n"


def loaded(place: Path, **keys: Any) -> ClusterOptions:
    cluster = {key: value for key, value in (base_cluster() | keys).items() if value is not None}
    options = load(write_config(place, base_document() | {"cluster": cluster})).cluster
    assert options is not None
    return options


def private(place: Path, name: str, content: str, mode: int = 0o600) -> str:
    (place / name).touch(mode=mode)
    (place / name).chmod(mode)
    (place / name).write_text(content)
    return name


def test_without_the_table_a_gateway_is_by_itself(place: Path) -> None:
    assert load(write_config(place, base_document())).cluster is None


def test_the_least(place: Path) -> None:
    options = loaded(place)
    assert (options.name, options.member, options.key) == ("edge", 3, b"\x5a" * 32)
    assert (options.lease_s, options.forward) == (5, Address("127.0.0.1", 15502))
    assert options.ttl_s == 4
    assert options.usable_s == pytest.approx(3.71)
    assert options.spare_s == pytest.approx(2.91), "a keepalive may have been due the moment before"
    assert "5a5a" not in repr(options) and "ZZZZ" not in repr(options)


@pytest.mark.parametrize(
    "content",
    ["a7" * 32, "A7" * 32 + "\n", base64.b64encode(b"\xa7" * 32).decode(), " " + "a7 " * 32],
    ids=["hex", "upper case", "base64", "with spaces"],
)
def test_a_cluster_key_may_be_written_in_these_ways(place: Path, content: str) -> None:
    assert loaded(place, key_file=private(place, "other.key", content)).key == b"\xa7" * 32


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("5a" * 31, "holds 31 octets"),
        (base64.b64encode(b"\xa7" * 33).decode(), "holds 33 octets"),
        ("a very secret passphrase", "neither hexadecimal nor base64"),
    ],
)
def test_a_cluster_key_of_another_size(place: Path, content: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(place, key_file=private(place, "other.key", content))
    assert says in str(caught.value) and "openssl rand -hex 32 > " in str(caught.value)
    assert content[:8] not in caught.value.problem


@pytest.mark.parametrize("key", ["key_file", "etcd_key", "etcd_password_file"])
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused(place: Path, key: str, mode: int) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(place, **{key: private(place, "open", "5a" * 32, mode)})
    assert caught.value.key == f"cluster.{key}"
    assert f"is readable by others (mode {mode:04o}); run: chmod 600" in str(caught.value)


def test_etcd_with_tls_and_a_password(place: Path) -> None:
    for name in ("ca.pem", "etcd.pem", "etcd.key"):
        private(place, name, PEM)
    options = loaded(
        place,
        etcd="https://etcd-0.example:2379, https://[2001:db8::1]:2379/",
        etcd_ca="ca.pem",
        etcd_cert="etcd.pem",
        etcd_key="etcd.key",
        etcd_user="deadpeer",
        etcd_password_file=private(place, "password", "pass word\n"),
    ).etcd
    assert options.endpoints == ("https://etcd-0.example:2379", "https://[2001:db8::1]:2379")
    assert (options.ca, options.certificate, options.key) == (
        place / "ca.pem",
        place / "etcd.pem",
        place / "etcd.key",
    )
    assert (options.user, options.password) == ("deadpeer", "pass word")
    assert "pass word" not in repr(options)


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ({"etcd": "https://e:1"}, "etcd_ca", "is missing; https needs it"),
        ({"etcd_ca": "ca.pem"}, "etcd_ca", "means nothing without an endpoint that begins with https://"),
        (
            {"etcd": "https://e:1", "etcd_ca": "ca.pem", "etcd_cert": "ca.pem"},
            "etcd_key",
            "go together",
        ),
        (
            {"etcd": "https://e:1", "etcd_ca": "ca.pem", "etcd_key": "ca.pem"},
            "etcd_cert",
            "go together",
        ),
        ({"etcd_user": "deadpeer"}, "etcd_password_file", "etcd_user needs it"),
        ({"etcd_password_file": "ca.pem"}, "etcd_user", "a password is for a user"),
        ({"forward_listen": None}, "forward_listen", "or write forward = false"),
        ({"lease": 3, "margin": 1}, "margin", "half of them is needed"),
        ({"lease": 2}, "lease", "3"),
        ({"lease": 4.5}, "lease", "not a whole number"),
        ({"drift": 0.5}, "margin", "half of them is needed"),
        ({"etcd": []}, "etcd", "not empty"),
    ],
)
def test_keys_that_do_not_fit_each_other(place: Path, keys: dict[str, Any], key: str, says: str) -> None:
    private(place, "ca.pem", PEM)
    with pytest.raises(ConfigError) as caught:
        loaded(place, **keys)
    assert caught.value.key == f"cluster.{key}"
    assert says in str(caught.value)


def test_forwarding_can_be_switched_off(place: Path) -> None:
    assert loaded(place, forward=False, forward_listen=None).forward is None
    assert loaded(place, forward=False).forward is None
    assert loaded(place, forward_listen="[2001:db8::1]:4501").forward == Address("2001:db8::1", 4501)


def test_the_others_are_told_where_we_listen_or_what_stands_for_it(place: Path) -> None:
    assert loaded(place).advertise == Address("127.0.0.1", 15502)
    told = loaded(place, forward_advertise="198.51.100.10:4501")
    assert (told.forward, told.advertise) == (Address("127.0.0.1", 15502), Address("198.51.100.10", 4501))
    assert loaded(place, forward=False, forward_advertise="198.51.100.10:4501").advertise is None


def test_check_sums_it_up_without_anything_secret(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_config(place, base_document() | {"cluster": base_cluster()})
    assert main(["check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "member 3 of cluster edge: etcd http://127.0.0.1:2379,\n" in printed
    assert (
        "  lease 5 s, within which it is written off if it dies; forwarding at 127.0.0.1:15502\n" in printed
    )
    assert "  etcd is asked for 4 s, of which 3.71 s are used: etcd may be away for 2.91 s\n" in printed
    assert "warning" not in printed
    assert main(["check", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["cluster"]["member"] == 3
    assert "5a5a" not in printed
    write_config(place, base_document() | {"cluster": base_cluster() | {"forward": False}})
    assert main(["check", str(file)]) == 0
    assert "if it dies; no forwarding\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "warns"),
    [
        ({"etcd": "http://127.0.0.1:2379, http://[::1]:2379, http://localhost:2379"}, []),
        ({"etcd": "https://192.0.2.1:1, http://192.0.2.2:1"}, ["in the clear, to http://192.0.2.2:1; use"]),
        ({"etcd": "http://[2001:db8::1]:1"}, ["in the clear, to http://[2001:db8::1]:1; use"]),
        ({"etcd": "https://192.0.2.1:1"}, []),
        ({"etcd": "https://a.example:1, https://192.0.2.1:1"}, ["named by a.example: while DNS"]),
        ({"etcd": "http://etcd:1"}, ["in the clear, to http://etcd:1; use", "named by etcd: while DNS"]),
        ({"lease": 3}, ["away for 1.33 s only"]),
        ({"lease": 4}, []),
    ],
)
def test_check_warns_of_what_works_and_may_not_be_wanted(
    place: Path, keys: dict[str, Any], warns: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    private(place, "ca.pem", PEM)
    cluster = base_cluster() | {"etcd_user": "deadpeer"} | keys
    cluster["etcd_password_file"] = private(place, "password", "pass word\n")
    if "https:" in cluster["etcd"]:
        cluster["etcd_ca"] = "ca.pem"
    file = write_config(place, base_document() | {"cluster": cluster})
    assert main(["check", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)["cluster"]["warnings"]
    assert len(found) == len(warns)
    assert all(want in warning for want, warning in zip(warns, found, strict=True))
    assert main(["check", str(file)]) == 0
    lines = capsys.readouterr().out
    assert all(f"  warning: {warning}\n" in lines for warning in found)
    assert "pass word" not in printed + lines


def test_without_a_password_nothing_goes_in_the_clear(place: Path) -> None:
    assert list(cautions(loaded(place, etcd="http://192.0.2.1:2379"))) == []


@pytest.mark.parametrize("key", ["name", "member", "key_file", "etcd"])
def test_what_must_be_given(place: Path, key: str) -> None:
    cluster = base_cluster()
    del cluster[key]
    with pytest.raises(ConfigError) as caught:
        load(write_config(place, base_document() | {"cluster": cluster}))
    assert caught.value.key == f"cluster.{key}"
    assert f"is missing; add it, for example: {key} = " in str(caught.value)


def test_a_member_must_not_have_its_peers_drop_the_sas_of_others(place: Path) -> None:
    document = base_document() | {"cluster": base_cluster()}
    name = next(iter(document["connections"]))
    document["connections"][name]["initial_contact"] = True
    with pytest.raises(ConfigError, match=rf"connections\.{name}\.initial_contact: .*leave it out"):
        load(write_config(place, document))
