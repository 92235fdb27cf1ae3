"""For every key of the schema what is wrong in its own way: one line with file, key and remedy, status 2.

`tests/gateway/test_config.py` has values of every other type for each of them, and what needs two keys.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo
from tests.gateway.documents import base_document, write_config
from tests.gateway.test_config import KEYS, dotted, with_key

from deadpeer.cli import main
from deadpeer.gateway.reference import SECTIONS
from deadpeer.gateway.schema import Seconds

PAIR = tuple[str, str]
FIELDS: dict[PAIR, FieldInfo] = {
    (section, key): dict(SECTIONS)[section].model_fields[key] for section, key in KEYS
}
# Rules of their own, that no annotation tells.
SPECIAL: dict[PAIR, list[object]] = {
    ("gateway", "listen"): ["not-an-address"],
    ("gateway", "tun_addresses"): ["10.0.0.1/33"],
    ("gateway", "route_table"): [255, 32001, -1],
    ("cluster", "name"): ["a b", "/", "x" * 65],
    ("cluster", "key_file"): ["absent.key", "/dev/null", "."],
    ("cluster", "etcd"): ["etcd:2379", "http://etcd", "http://u:p@etcd:2379", "http://[::1", "http://e:1/x"],
    ("cluster", "etcd_ca"): ["absent.pem", "home.psk"],
    ("cluster", "etcd_cert"): ["absent.pem", "home.psk"],
    ("cluster", "etcd_key"): ["absent.key", "home.psk"],
    ("cluster", "etcd_password_file"): ["absent", "/dev/null"],
    ("cluster", "lease"): ["2500ms"],
    ("cluster", "margin"): ["3s"],
    ("cluster", "forward_listen"): ["0.0.0.0:4501", "127.0.0.1", "host.example:4501", "127.0.0.1:0"],
    ("cluster", "forward_advertise"): ["0.0.0.0:4501", "127.0.0.1", "host.example:4501", "127.0.0.1:0"],
    ("standby", "address"): ["::", "host.example", "224.0.0.1", "192.0.2.1/24"],
    ("standby", "key_file"): ["absent.key", "/dev/null", ".", "home.psk"],
    ("standby", "listen"): ["127.0.0.2", "host.example:4502", "127.0.0.1:4502", "0.0.0.0:4502"],
    ("standby", "partner"): ["127.0.0.3:0", "127.0.0.2:15503", "[::1]:15503", "127.0.0.1:4502"],
    ("connections.NAME", "local_addrs"): ["10.0.0.1/8"],
    ("connections.NAME", "remote_addrs"): ["10.0.0.300"],
    ("connections.NAME", "proposals"): ["rot13", "aes256gcm16"],
    ("connections.NAME", "encap"): [False],
    ("connections.NAME", "crash_methods"): ["ping", ["qcd", "qcd"], "qcd, sir, qcd"],
    ("connections.NAME.local", "certs"): [["absent.pem"]],
    ("connections.NAME.local", "private_key"): ["absent.key"],
    ("connections.NAME.local", "secret_file"): ["absent.psk", "/dev/null", "."],
    ("connections.NAME.remote", "cacerts"): [["absent.pem"]],
    ("connections.NAME.remote", "secret_file"): ["absent.psk", "/dev/null", "."],
    ("connections.NAME.children.CHILD", "local_ts"): ["10.0.0.1-10.0.0.0", "10.0.0.0/24[icmp/x]"],
    ("connections.NAME.children.CHILD", "remote_ts"): ["everything"],
    ("connections.NAME.children.CHILD", "esp_proposals"): ["aes256gcm16-md5"],
}


def wrong(field: FieldInfo) -> Iterator[object]:
    """Values just outside of what the annotation allows."""
    if field.annotation is bool:
        yield from ("yes", 1)
    if _is(field, Seconds):
        yield from ("5 parsecs", "-1s", -1, float("nan"), float("inf"))
    for choices in _choices(field.annotation):
        yield "nothing-of-these" if get_origin(field.annotation) is Literal else ["nothing-of-these"]
        assert choices
    for bound in _bounds(field):
        match bound:
            case Ge():
                yield typing.cast(float, bound.ge) - 1
            case Gt():
                yield bound.gt
            case Le():
                yield typing.cast(float, bound.le) + 1
            case Lt():
                yield bound.lt
            case MaxLen():
                yield "x" * (bound.max_length + 1)
            case MinLen():
                yield [] if get_origin(field.annotation) is list else ""
    if _is_text(field):
        yield from ("", "bell\a")


def _bounds(field: FieldInfo) -> Iterator[object]:
    for each in field.metadata:
        # A Field() inside of an Annotated keeps its own list.
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def _is(field: FieldInfo, kind: Any) -> bool:
    (validator,) = kind.__metadata__
    optional = [get_args(part) for part in get_args(field.annotation)]
    return validator in field.metadata or any(validator in parts for parts in optional)


def _is_text(field: FieldInfo) -> bool:
    """A string, or one that may be left out."""
    return field.annotation is str or any(part.__origin__ is str for part in _annotated(field))


def _annotated(field: FieldInfo) -> list[Any]:
    return [part for part in get_args(field.annotation) if hasattr(part, "__metadata__")]


def _choices(annotation: Any) -> Iterator[tuple[object, ...]]:
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    for part in get_args(annotation):
        yield from _choices(part) if get_origin(part) is Literal else ()


CASES = [
    (section, key, value)
    for (section, key), field in FIELDS.items()
    for value in (*wrong(field), *SPECIAL.get((section, key), ()))
]


def test_no_key_is_left_out() -> None:
    assert {(section, key) for section, key, _ in CASES} == set(KEYS)


@pytest.mark.parametrize(("section", "key", "value"), CASES)
def test_it_is_refused_in_one_line_with_the_file_the_key_and_the_remedy(
    place: Path, section: str, key: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_config(place, with_key(section, key, value))
    assert main(["check", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.isprintable()
    assert line.startswith(f"deadpeer check: {file}: {dotted(section, key)}")
    remedies = ("example", "one of", "must be", "correct", "remove", "add", "create", "name", "write")
    assert any(
        remedy in line for remedy in (*remedies, "there are", "0 to 65535", "not supported", "needs")
    ), line


@pytest.mark.parametrize("table", ["local", "remote"])
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused_wherever_it_is_named(
    place: Path, table: str, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    document = base_document()
    document["connections"]["home"][table] |= {"secret_file": "open.psk"}
    (place / "open.psk").write_text("not so secret\n")
    (place / "open.psk").chmod(mode)
    file = write_config(place, document)
    assert main(["check", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"connections.home.{table}.secret_file: " in line
    assert f"is readable by others (mode {mode:04o}); run: chmod 600" in line
    assert "not so secret" not in line
