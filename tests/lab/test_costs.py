"""What recoveries and roles cost: the facts that do not depend on the machine, and how figures are made."""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter

import pytest
from rich.console import Console

from deadpeer.crypto import PRFS, prf
from deadpeer.lab.costs import AUTHENTICATIONS, WAYS, Costs, Operations, Wire, measure
from deadpeer.lab.costs.__main__ import main
from deadpeer.lab.costs.meter import Meter, Tally, operations
from deadpeer.lab.costs.recoveries import recovered
from deadpeer.lab.costs.roles import median_difference
from deadpeer.lab.costs.table import tables
from deadpeer.lab.options import LabError


@pytest.fixture(scope="module")
def costs() -> Costs:
    """Little of everything. It collects garbage often: what the other tests hold is left out of that."""
    gc.collect()
    gc.freeze()
    try:
        return measure(lambda _text: None, recoveries=1, sas=4)
    finally:
        gc.unfreeze()


def test_everything_is_there(costs: Costs) -> None:
    kinds = {(c.way, c.authentication, c.resumed) for c in costs.recoveries}
    assert kinds == {(w, a, r) for w in WAYS for a in AUTHENTICATIONS for r in (False, True)}
    assert {(r.way, r.authentication) for r in costs.ratios} == {
        (w, a) for w in WAYS for a in AUTHENTICATIONS
    }
    for cost in costs.recoveries:
        for side in (cost.alice, cost.bob):
            assert side.cpu_us > 0
            assert side.cpu_quartiles_us[0] <= side.cpu_us <= side.cpu_quartiles_us[1]
            assert side.primitives_us > 0
            assert side.sent.messages > 0
        assert cost.detect_ms < cost.recover_ms


@pytest.mark.parametrize("way", WAYS)
def test_a_full_recovery_signs_and_a_resumed_one_does_not(costs: Costs, way: str) -> None:
    """A signature, the peer's, the CA's on the peer's certificate, one Diffie-Hellman: or none of it."""
    for authentication in AUTHENTICATIONS:
        full = costs.recovery(way, authentication, resumed=False)  # type: ignore[arg-type]
        resumed = costs.recovery(way, authentication, resumed=True)  # type: ignore[arg-type]
        signs = int(authentication != "psk")
        for side in (full.alice, full.bob):
            done = side.operations
            assert (done.signatures, done.verifications, done.certificates) == (signs, signs, signs)
            assert done.exchanges == 1
        for side in (resumed.alice, resumed.bob):
            done = side.operations
            assert (done.signatures, done.verifications, done.certificates, done.exchanges) == (0, 0, 0, 0)
            assert done.macs > 0
            assert done.seals > 0


def test_each_method_takes_the_round_trips_that_it_promises(costs: Costs) -> None:
    """The bounds of docs/architecture.md, in virtual time, where processing takes none."""
    rtts = {
        way: (cost.detect_ms / cost.rtt_ms, cost.recover_ms / cost.rtt_ms)
        for way in WAYS
        for cost in [costs.recovery(way, "psk", resumed=False)]
    }
    assert rtts["qcd"] == pytest.approx((1.5, 4.5))
    assert rtts["qcd-map"] == pytest.approx((0.5, 3.5))
    assert rtts["qcd-announced"] == pytest.approx((0.5, 2.5))
    assert rtts["sir"] == pytest.approx((3.5, 4.5), abs=0.2)
    assert rtts["reconnect"] == pytest.approx((3.5, 4.5), abs=0.2)
    assert rtts["liveness"][0] > 100


def test_fewer_messages_with_the_map_and_fewer_still_when_announced(costs: Costs) -> None:
    sent = {way: costs.recovery(way, "psk", resumed=False) for way in WAYS}
    assert sent["qcd-map"].alice.sent.messages == sent["qcd"].alice.sent.messages - 1
    assert sent["qcd-map"].bob.sent.messages == sent["qcd"].bob.sent.messages - 1
    assert sent["qcd-announced"].bob.sent == sent["qcd-map"].bob.sent
    assert sent["liveness"].alice.sent.messages > sent["reconnect"].alice.sent.messages


def test_a_token_is_one_notify_and_sir_a_vendor_id(costs: Costs) -> None:
    """A token of 16 octets in a notify of 8; 16 octets in a Vendor ID payload of 4."""
    maker, taker = costs.role("token-maker", "responder"), costs.role("token-taker", "initiator")
    assert maker.setup_sent == Wire(0, 24)
    assert maker.setup_received == Wire(0, 0)
    assert (taker.setup_sent, taker.setup_received) == (Wire(0, 0), Wire(0, 24))
    assert maker.rekey_sent == Wire(0, 24)
    sir = costs.role("sir", "initiator")
    assert (sir.setup_sent, sir.setup_received) == (Wire(0, 20), Wire(0, 20))
    assert (sir.rekey_sent, sir.rekey_received) == (Wire(0, 0), Wire(0, 0))


def test_a_maker_that_initiates_needs_an_exchange_after_its_rekey(costs: Costs) -> None:
    maker, taker = costs.role("token-maker", "initiator"), costs.role("token-taker", "responder")
    assert maker.rekey_sent.messages == maker.rekey_received.messages == 1
    assert maker.rekey_sent == taker.rekey_received
    assert maker.rekey_received == taker.rekey_sent


def test_a_ticket_is_asked_for_and_given(costs: Costs) -> None:
    client, gateway = costs.role("ticket-client", "initiator"), costs.role("ticket-gateway", "responder")
    assert client.setup_sent == Wire(0, 8)
    assert client.setup_received == gateway.setup_sent
    assert gateway.setup_sent.octets > 100
    assert client.memory_octets > gateway.setup_sent.octets


def test_what_is_stored(costs: Costs) -> None:
    """Only the map has a record for each child SA; a taker keeps at least its token, in memory."""
    for role in costs.roles:
        assert (role.disk_octets > 0) is (role.role == "spi-map"), role
    assert costs.role("token-taker", "initiator").memory_octets >= 16
    assert {k.per for k in costs.kept} == {"gateway", "child SA", "ticket used"}
    per_child = next(k.octets for k in costs.kept if k.per == "child SA")
    assert costs.role("spi-map", "responder").disk_octets == pytest.approx(per_child)
    for base in costs.baselines:
        assert base.memory_octets > 1000
        assert base.setup_sent.messages == 2


def test_the_record_is_json_and_the_tables_are_full(costs: Costs) -> None:
    record = json.loads(json.dumps(costs.to_record()))
    assert len(record["recoveries"]) == len(costs.recoveries)
    first = record["recoveries"][0]
    assert set(first["bob"]) >= {"cpu_us", "primitives_us", "primitives_share", "operations", "sent"}
    assert {table.row_count for table in tables(costs)} == {
        len(costs.recoveries),
        len(costs.baselines) + len(costs.roles),
        len(costs.kept),
    }
    console = Console(width=150, record=True, file=sys.stderr)
    for table in tables(costs):
        console.print(table)
    text = console.export_text()
    assert "RSA-3072" in text
    assert "1 signature, 2 verification, 1 DH" in text


def test_what_is_not_there_is_not_made_up(costs: Costs) -> None:
    with pytest.raises(KeyError):
        costs.role("ticket-client", "responder")


def test_the_meter_leaves_nothing_behind() -> None:
    """The names that it replaces are put back, and without it nothing is counted."""
    names = [
        (sys.modules[f"deadpeer.{module}"], name)
        for module, name in (
            ("crypto.aead", "AESGCM"),
            ("crash.tickets", "AESSIV"),
            ("crash.tokens", "hmac"),
            ("crypto.prf", "hmac"),
        )
    ]
    before = [getattr(m, name) for m, name in names]
    meter = Meter()
    tally = meter.into = Tally()
    with meter.running():
        assert all(getattr(m, name) is not value for (m, name), value in zip(names, before, strict=True))
        prf(PRFS["prfsha256"], b"key", b"data")
    assert [getattr(m, name) for m, name in names] == before
    assert sys.getprofile() is None
    assert tally.calls == Counter({"HMAC": 1, "HMAC.update": 1, "HMAC.finalize": 1})
    assert tally.ns > 0
    prf(PRFS["prfsha256"], b"key", b"data")
    assert tally.calls["HMAC"] == 1


def test_the_meter_is_taken_off_when_a_run_fails() -> None:
    meter = Meter()
    with pytest.raises(LabError), meter.running():
        raise LabError("no tunnel")
    assert sys.getprofile() is None


def test_operations_are_told_apart_by_name() -> None:
    calls = Counter(
        {
            "RSAPrivateKey.sign": 1,
            "ECPublicKey.verify": 2,
            "Certificate.verify_directly_issued_by": 3,
            "X25519PrivateKey.exchange": 4,
            "HMAC.finalize": 5,
            "AESGCM.encrypt": 6,
            "AESSIV.decrypt": 7,
            "X25519PrivateKey.public_key": 8,
        }
    )
    assert operations(calls) == Operations(1, 2, 3, 4, 5, 13)


def test_a_difference_of_medians_has_an_error() -> None:
    assert median_difference([5.0], [3.0]) == (2.0, 0.0)
    difference, error = median_difference([10.0, 11.0, 12.0, 13.0, 14.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert difference == 9.0
    assert 0.5 < error < 2


def test_bob_counts_from_his_boot() -> None:
    """What the setup cost is not part of the recovery."""
    done = recovered(("qcd", "psk", False))
    assert [e.kind for _, e in done.rig.bob.events].count("ike_sa_up") == 1
    assert done.back_ns < done.verdict_ns < done.recovered_ns


def test_the_command_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--json", "--recoveries", "1", "--sas", "2", "--only", "qcd", "--auth", "psk"]
    assert main(args) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(r["way"], r["resumed"]) for r in record["recoveries"]] == [("qcd", False), ("qcd", True)]


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--recoveries", "0"])
    assert error.value.code == 2
    assert "--recoveries 0" in capsys.readouterr().err
