"""The table [standby]: what needs several keys, or another file."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.documents import base_cluster, base_document, base_standby, write_config

from deadpeer.gateway.config import ConfigError, load
from deadpeer.gateway.standby_config import StandbyOptions
from deadpeer.values import Address

ONE, TWO = b"\x6b" * 32, b"\xa7" * 32


def loaded(place: Path, **keys: Any) -> StandbyOptions:
    options = load(write_config(place, base_document() | {"standby": base_standby() | keys})).standby
    assert options is not None
    return options


def refused(place: Path, document: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(write_config(place, document))
    assert "\n" not in str(caught.value)
    return caught.value


def written(place: Path, content: str, mode: int = 0o600) -> str:
    (place / "other.key").touch(mode=mode)
    (place / "other.key").chmod(mode)
    (place / "other.key").write_text(content)
    return "other.key"


def test_the_least(place: Path) -> None:
    options = loaded(place)
    assert (options.number, options.address, options.by) == (0, ip_address("127.0.0.1"), "address")
    assert (options.listen, options.partner) == (Address("127.0.0.2", 15503), Address("127.0.0.3", 15503))
    assert options.keys == (ONE,)
    assert "6b6b" not in repr(options) and "kkkk" not in repr(options)


def test_several_keys_in_either_way_of_writing(place: Path) -> None:
    content = f"{TWO.hex()}\n\n {base64.b64encode(ONE).decode()}\n"
    assert loaded(place, key_file=written(place, content)).keys == (TWO, ONE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("5a" * 32 + "\n" + "5b" * 31, "key 2 has 31 octets, and 32 are needed"),
        ("5a" * 32 + "\na very secret passphrase", "key 2 is neither hexadecimal nor base64"),
        (("5a" * 32 + "\n") * 2, "holds a key twice"),
        ("\n".join(f"{number:02x}" * 32 for number in range(5)), "holds 5 keys; there must be 1 to 4"),
    ],
)
def test_keys_that_can_t_be_used(place: Path, content: str, says: str) -> None:
    document = base_document() | {"standby": base_standby() | {"key_file": written(place, content)}}
    error = refused(place, document)
    assert error.key == "standby.key_file"
    assert says in error.problem
    assert content[:8] not in error.problem and "passphrase" not in error.problem


def test_keys_that_others_can_read(place: Path) -> None:
    document = base_document() | {"standby": base_standby() | {"key_file": written(place, "5a" * 32, 0o640)}}
    assert "is readable by others (mode 0640); run: chmod 600" in refused(place, document).problem


def test_not_in_a_cluster(place: Path) -> None:
    error = refused(place, base_document() | {"standby": base_standby(), "cluster": base_cluster()})
    assert (error.key, error.problem) == ("standby", "and [cluster] exclude each other; remove one of them")


def test_only_the_shared_address_is_served(place: Path) -> None:
    document = base_document() | {"standby": base_standby()}
    document["gateway"]["listen"] = ["127.0.0.1", "127.0.0.9"]
    error = refused(place, document)
    assert error.key == "gateway.listen"
    assert "remove it, or write 127.0.0.1" in error.problem
    document["gateway"]["listen"] = []
    assert load(write_config(place, document)).standby is not None
