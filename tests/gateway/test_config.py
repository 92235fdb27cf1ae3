"""Every key of the schema: its documented example is good; wrong, missing and unknown ones give one line."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gateway.documents import base_cluster, base_document, base_standby, write_config

from deadpeer.gateway.config import ConfigError, load
from deadpeer.gateway.reference import SECTIONS
from deadpeer.gateway.resolve import check_local_addresses

KEYS = [
    (section, key)
    for section, table in SECTIONS
    for key, field in table.model_fields.items()
    if field.examples
]
WHERE = {
    "gateway": ("gateway",),
    "qcd": ("qcd",),
    "cluster": ("cluster",),
    "standby": ("standby",),
    "connections.NAME": ("connections", "home"),
    "connections.NAME.local": ("connections", "home", "local"),
    "connections.NAME.remote": ("connections", "home", "remote"),
    "connections.NAME.children.CHILD": ("connections", "home", "children", "net"),
}
# Keys whose examples only make sense in another kind of configuration than the base one.
OF_PUBKEY = {"certs", "private_key", "cacerts"}
OF_TLS = {"etcd_ca", "etcd_cert", "etcd_key", "etcd_user", "etcd_password_file"}


def refused(place: Path, document: dict[str, Any]) -> ConfigError:
    file = write_config(place, document)
    with pytest.raises(ConfigError) as caught:
        load(file)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{file}: {caught.value.key}: ")
    return caught.value


def with_key(section: str, key: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(base_document())
    if section == "cluster":
        document["cluster"] = base_cluster()
    if section == "standby":
        document["standby"] = base_standby()
    table = document
    for step in WHERE[section]:
        table = table.setdefault(step, {})
    table[key] = value
    return document


def dotted(section: str, key: str) -> str:
    return ".".join((*WHERE[section], key))


def example_of(section: str, key: str) -> Any:
    field = dict(SECTIONS)[section].model_fields[key]
    return tomllib.loads(f"key = {field.examples[0]}")["key"]


def wrong_values() -> Iterator[tuple[str, str, object]]:
    """A value of each other TOML type for each key."""
    samples: list[object] = ["text", 7, 2.5, True, [7], {"a": 1}]
    for section, key in KEYS:
        example = example_of(section, key)
        field = dict(SECTIONS)[section].model_fields[key]
        for sample in samples:
            fits = isinstance(sample, type(example)) and not isinstance(sample, bool)
            takes_number = isinstance(field.default, float) or (
                key in {"life_time", "over_time", "rand_time"}
            )
            if (
                (fits and not isinstance(example, list) and sample != "text")
                or (isinstance(sample, bool) and isinstance(example, bool))
                or (takes_number and isinstance(sample, int | float) and not isinstance(sample, bool))
                or (sample == "text" and isinstance(example, str | list))
            ):
                continue
            yield section, key, sample


@pytest.mark.parametrize(("section", "key"), [pair for pair in KEYS if pair[1] not in OF_PUBKEY | OF_TLS])
def test_the_documented_example_is_good(place: Path, section: str, key: str) -> None:
    document = with_key(section, key, example_of(section, key))
    home = document["connections"]["home"]
    if section == "gateway" and key == "listen":
        home["local_addrs"] = ["%any"]
    if key == "local_addrs":
        document["gateway"]["listen"] = home["local_addrs"]
    if section == "standby" and key == "address":
        document["gateway"]["listen"] = []
    if section == "connections.NAME" and key == "rand_time":
        home["rekey_time"] = "4h"
    load(write_config(place, document))


@pytest.mark.parametrize(("section", "key", "value"), list(wrong_values()))
def test_a_value_of_another_type(place: Path, section: str, key: str, value: object) -> None:
    error = refused(place, with_key(section, key, value))
    assert error.key.startswith(dotted(section, key))
    assert "for example" in str(error) or "one of" in str(error) or "must be" in str(error)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_an_unknown_key_names_its_neighbour(place: Path, section: str, key: str) -> None:
    error = refused(place, with_key(section, key + "x", 1))
    assert error.key == dotted(section, key + "x")
    assert "did you mean" in str(error)


@pytest.mark.parametrize("section", WHERE)
def test_a_strange_key(place: Path, section: str) -> None:
    error = refused(place, with_key(section, "qqqqqqqq", 1))
    assert "is not a known key; remove it" in str(error)


def test_an_unknown_section(place: Path) -> None:
    document = base_document() | {"conections": {}}
    assert "did you mean connections?" in str(refused(place, document))


@pytest.mark.parametrize("table", ["local", "remote", "children"])
def test_a_missing_table(place: Path, table: str) -> None:
    document = base_document()
    del document["connections"]["home"][table]
    error = refused(place, document)
    assert error.key == f"connections.home.{table}"
    assert "add a table" in str(error)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("connections.NAME.local", "id"),
        ("connections.NAME.local", "secret_file"),
        ("gateway", "unix_local"),
        ("gateway", "unix_peer"),
    ],
)
def test_a_key_that_is_missing_because_of_another(place: Path, section: str, key: str) -> None:
    document = base_document()
    table: Any = document
    for step in WHERE[section]:
        table = table[step]
    del table[key]
    error = refused(place, document)
    assert error.key == dotted(section, key)
    assert "is missing" in str(error)
    assert f"for example: {key} = " in str(error)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("gateway", "state_dir"),
        ("gateway", "control"),
        ("gateway", "listen"),
        ("gateway", "port"),
        ("gateway", "port_nat_t"),
        ("gateway", "plane"),
        ("connections.NAME", "remote_addrs"),
        ("connections.NAME.remote", "id"),
        ("connections.NAME.children.CHILD", "local_ts"),
        ("connections.NAME.children.CHILD", "remote_ts"),
    ],
)
def test_a_key_with_a_default_may_be_left_out(place: Path, section: str, key: str) -> None:
    document = base_document()
    table: Any = document
    for step in WHERE[section]:
        table = table[step]
    del table[key]
    load(write_config(place, document))


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("gateway", "port", 0, "at least 1"),
        ("gateway", "port", 65536, "at most 65535"),
        ("gateway", "port_nat_t", 15500, "is gateway.port too"),
        ("gateway", "plane", "xfrm", '"tun" or "unix"'),
        ("gateway", "state_dir", "", "not empty"),
        ("gateway", "control", "c" * 120, "shorten it"),
        ("gateway", "unix_local", "c" * 120, "shorten it"),
        ("gateway", "listen", ["host.example"], "not an IP address"),
        ("gateway", "listen", ["::"], "can't be listened on"),
        ("gateway", "listen", ["127.0.0.1", "127.0.0.1"], "there twice"),
        ("gateway", "log_level", "loud", '"debug", "info", "notice" or "warning"'),
        ("gateway", "tun_addresses", ["10.0.0.300/24"], "not an address with a prefix"),
        ("gateway", "half_open_timeout", 0, "more than 0"),
        ("gateway", "nat_keepalive", "20 seconds", "units are"),
        ("gateway", "tun", "a-name-that-is-too-long", "at most 15 characters"),
        ("qcd", "source_rate", -1, "at least 0"),
        ("connections.NAME", "local_addrs", ["192.0.2.77"], "gateway.listen"),
        ("connections.NAME", "local_addrs", ["bogus"], "not an IP address"),
        ("connections.NAME", "remote_addrs", ["10.0.0.1/8"], "write 10.0.0.0/8"),
        ("connections.NAME", "remote_addrs", ["2001:db8::1"], "IP version"),
        ("connections.NAME", "remote_port", "500", "must be an integer"),
        ("connections.NAME", "remote_port_nat_t", 500, "is remote_port too"),
        ("connections.NAME", "proposals", ["aes256gcm16-x25519"], "needs a PRF named"),
        ("connections.NAME", "proposals", ["3des-md5-modp1024"], "unknown algorithm '3des'"),
        ("connections.NAME", "proposals", [], "is empty"),
        ("connections.NAME", "dpd_timeout", 5, "less than dpd_floor"),
        ("connections.NAME", "dpd_floor", "2m", "raise dpd_timeout or lower dpd_floor"),
        ("connections.NAME", "rand_time", "5h", "not less than rekey_time"),
        ("connections.NAME", "encap", False, "not supported yet"),
        ("connections.NAME", "fragment_size", 100, "at least 576"),
        ("connections.NAME", "qcd", "maybe", '"both", "maker", "taker" or "off"'),
        ("connections.NAME", "qcd_method", "hash", '"spi" or "spi-address"'),
        ("connections.NAME", "children", {}, "not empty"),
        ("connections.NAME.local", "auth", "eap", '"psk" or "pubkey"'),
        ("connections.NAME.local", "id", "%any", "can't be one's own identity"),
        ("connections.NAME.local", "id", "CN", ""),
        ("connections.NAME.local", "id", "XX=y", "unknown type"),
        ("connections.NAME.local", "certs", ["a.pem"], 'means nothing with auth = "psk"'),
        ("connections.NAME.local", "secret_file", "absent.psk", "does not exist"),
        ("connections.NAME.remote", "id", "a b", ""),
        ("connections.NAME.remote", "cacerts", ["ca.pem"], 'means nothing with auth = "psk"'),
        ("connections.NAME.children.CHILD", "local_ts", ["10.0.0.1/24"], "write 10.0.0.0/24"),
        ("connections.NAME.children.CHILD", "local_ts", [], "is empty"),
        ("connections.NAME.children.CHILD", "remote_ts", ["2001:db8::/64"], "no packet can match"),
        ("connections.NAME.children.CHILD", "remote_ts", ["10.0.0.0/24[tcp/x]"], "not a port"),
        ("connections.NAME.children.CHILD", "esp_proposals", ["aes256"], "needs an integrity algorithm"),
        ("connections.NAME.children.CHILD", "start_action", "begin", '"none", "start" or "trap"'),
        ("connections.NAME.children.CHILD", "dpd_action", "none", '"clear", "trap" or "restart"'),
        ("connections.NAME.children.CHILD", "close_action", "restart", '"none", "trap" or "start"'),
        ("connections.NAME.children.CHILD", "life_time", "30m", "not more than rekey_time"),
        ("connections.NAME.children.CHILD", "rand_time", "2h", "not less than rekey_time"),
        ("connections.NAME.children.CHILD", "rekey_bytes", -1, "at least 0"),
        ("connections.NAME.children.CHILD", "replay_window", 8, "at least 32"),
    ],
)
def test_a_wrong_value(place: Path, section: str, key: str, value: object, says: str) -> None:
    if says == "":
        # Words without a dot are host names too: what matters is that nothing raises another error.
        try:
            load(write_config(place, with_key(section, key, value)))
        except ConfigError as error:
            assert error.key == dotted(section, key)
        return
    error = refused(place, with_key(section, key, value))
    assert says in str(error)
    assert key in error.key or key in str(error)


def test_start_needs_an_address_to_call(place: Path) -> None:
    document = with_key("connections.NAME.children.CHILD", "start_action", "trap")
    document["connections"]["home"]["remote_addrs"] = ["%any"]
    error = refused(place, document)
    assert error.key == "connections.home.children.net.start_action"
    assert "single address in remote_addrs" in str(error)


@pytest.mark.parametrize(
    ("remote", "written", "means"),
    [
        (["198.51.100.1"], None, "trap"),
        (["198.51.100.1", "203.0.113.0/24"], None, "trap"),
        (["203.0.113.0/24"], None, "clear"),
        (["%any"], None, "clear"),
        (["%any"], "restart", "restart"),
        (["198.51.100.1"], "clear", "clear"),
    ],
)
def test_what_follows_the_loss_of_a_peer(
    place: Path, remote: list[str], written: str | None, means: str
) -> None:
    """Nobody is called back where they were last, unless somebody asks for it."""
    document = base_document()
    document["connections"]["home"]["remote_addrs"] = remote
    if written is not None:
        document["connections"]["home"]["children"]["net"]["dpd_action"] = written
    [child] = load(write_config(place, document)).connections[0].children
    assert child.dpd_action == means


def test_two_children_with_the_same_selectors(place: Path) -> None:
    document = base_document()
    children = document["connections"]["home"]["children"]
    children["net2"] = dict(children["net"])
    error = refused(place, document)
    assert error.key == "connections.home.children.net2"
    assert "traffic selectors of child net" in str(error)


def test_names_of_connections_are_checked(place: Path) -> None:
    document = base_document()
    document["connections"]["a b"] = document["connections"].pop("home")
    assert "rename it" in str(refused(place, document))


def test_the_first_error_is_told_and_the_others_counted(place: Path) -> None:
    document = base_document()
    document["connections"]["home"]["children"]["net"] |= {"local_ts": "bogus", "remote_ts": "bogus"}
    error = refused(place, document)
    assert error.key == "connections.home.children.net.local_ts"
    assert error.others == 1
    assert str(error).endswith("(and 1 more error)")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[gateway\n", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"  \n", "is empty"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b"a = " + b"9" * 5000, "is not TOML"),
    ],
)
def test_files_that_are_none(place: Path, content: bytes, says: str) -> None:
    file = place / "gw.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        load(file)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_files_that_are_not_there(place: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"does not exist|is not a file"):
        load(place / name)


def test_paths_are_relative_to_the_file(place: Path) -> None:
    config = load(write_config(place, base_document()))
    assert config.gateway.state_dir == place / "state"
    assert config.gateway.control == place / "control.sock"


def test_times_and_single_strings(place: Path) -> None:
    document = base_document()
    home = document["connections"]["home"]
    home |= {"dpd_delay": "500ms", "rekey_time": "1d", "proposals": "aes256gcm16-prfsha384-x25519, default"}
    home["children"]["net"] |= {"rekey_time": 0, "local_ts": "10.0.0.0/24, 10.0.2.0/24"}
    connection = load(write_config(place, document)).connections[0]
    assert connection.dpd_delay_s == 0.5
    assert connection.lifetime.rekey_s == 86400
    assert connection.lifetime.life_s == pytest.approx(95040)
    assert connection.proposals[0].name == "aes256gcm16-prfsha384-x25519"
    assert len(connection.proposals) == 3
    assert connection.children[0].lifetime == connection.children[0].lifetime.__class__(0, 0, 0, 0, 0)
    assert len(connection.children[0].local_ts) == 2


def test_limits_reach_the_endpoint_and_the_extensions(place: Path) -> None:
    document = with_key("gateway", "cookie_threshold", 0)
    document["qcd"] = {"boot_window": "5m", "spi_burst": 9}
    config = load(write_config(place, document))
    assert config.endpoint.cookie_threshold == 0
    assert config.endpoint.port == 15500
    assert config.crash.boot_window_s == 300
    assert config.crash.spi_burst == 9


def test_local_addresses_that_the_host_does_not_have(place: Path) -> None:
    document = base_document()
    document["gateway"]["listen"] = []
    document["connections"]["home"]["local_addrs"] = ["192.0.2.0/24"]
    config = load(write_config(place, document))
    check_local_addresses(config.connections, [ip_address("192.0.2.9")], config.file)
    with pytest.raises(ConfigError) as caught:
        check_local_addresses(config.connections, [ip_address("198.51.100.9")], config.file)
    assert str(caught.value) == (
        f"{config.file}: connections.home.local_addrs: none of these is one of our addresses (198.51.100.9);"
        " add one there"
    )


def test_a_control_character_in_a_path(place: Path) -> None:
    assert "can't be printed" in str(refused(place, with_key("gateway", "state_dir", "a\0b")))


toml_values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(KEYS), toml_values)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=300,
    deadline=None,
)
def test_any_value_anywhere_is_used_or_refused_in_one_line(
    place: Path, where: tuple[str, str], value: object
) -> None:
    file = write_config(place, with_key(*where, value))
    try:
        load(file)
    except ConfigError as error:
        assert str(error).isprintable()
        assert str(error).startswith(f"{file}: ")
        assert error.key
