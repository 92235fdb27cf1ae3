"""The octets of the SPI map."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crash.boot import BootState, Generation
from deadpeer.crash.spi_records import (
    MAX_ENDED,
    BindingError,
    Header,
    SpiRecord,
    decode_record,
    encode_header,
    encode_record,
    read_header,
    record_key,
)
from deadpeer.crash.tokens import MakerRole
from deadpeer.values import Address

STATE = BootState(8, b"k" * 32, (Generation(1, b"s" * 32),))

HOSTS = st.one_of(
    st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.builds(IPv6Address, st.integers(0, 2**128 - 1))
)
ADDRESSES = st.builds(lambda ip, port: Address(str(ip), port), HOSTS, st.integers(0, 65535))
RECORDS = st.builds(
    SpiRecord,
    role=st.sampled_from(MakerRole),
    method=st.sampled_from(["spi", "spi-address"]),
    spi_i=st.binary(min_size=8, max_size=8),
    spi_r=st.binary(min_size=8, max_size=8),
    generation=st.integers(1, 2**32 - 1),
    peer=st.binary(min_size=2, max_size=2),
    remote=ADDRESSES,
    local=ADDRESSES,
)


@given(RECORDS)
def test_a_record_comes_back_and_is_small(record: SpiRecord) -> None:
    data = encode_record(record)
    assert decode_record(data) == record
    assert len(record_key(0xFFFFFFFF)) + len(data) <= 64


@given(st.binary(max_size=70))
def test_any_octets_are_a_record_or_none(data: bytes) -> None:
    record = decode_record(data)
    assert record is None or encode_record(record) == data


def test_with_two_ipv4_addresses_a_record_has_39_octets_with_its_key() -> None:
    record = SpiRecord(
        MakerRole.RESPONDER, "spi", bytes(8), bytes(8), 1, b"pp",
        Address("192.0.2.1", 4500), Address("192.0.2.2", 4500),
    )  # fmt: skip
    assert 4 + len(encode_record(record)) == 39


@given(st.dictionaries(st.integers(1, 2**20 - 1), st.integers(0, 2**32 - 1), max_size=100))
def test_a_header_comes_back(ended: dict[int, int]) -> None:
    data = encode_header(Header(7, ended), STATE, b"machine")
    header = read_header(data, STATE, b"machine")
    assert header.epoch == 7
    assert header.ended == dict(list(ended.items())[:MAX_ENDED])


@given(st.integers(0, 8 * 50), st.binary(min_size=0, max_size=3))
def test_a_header_with_any_bit_changed_or_octet_added_is_refused(bit: int, more: bytes) -> None:
    data = bytearray(encode_header(Header(7, {3: 4}), STATE, b"machine"))
    if bit < 8 * len(data):
        data[bit // 8] ^= 1 << bit % 8
    elif not more:
        more = b"x"
    with pytest.raises(BindingError):
        read_header(bytes(data) + more, STATE, b"machine")


def test_a_header_does_not_say_which_machine_it_is_from() -> None:
    assert b"machine" not in encode_header(Header(7), STATE, b"machine")
