"""tshark, an independent parser, dissects every kind of message that we emit and complains about none.

Two endpoints under a virtual clock talk to each other; what they send is written as a capture, what their key
log says as Wireshark's tables. Every protected message must decrypt and verify, but for ChaCha20-Poly1305,
which Wireshark has no name for.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.crypto import pki
from tests.interop.conftest import StartPair
from tests.interop.harness.tunnels import Tunnel
from tests.support.pair import START_UNIX_S, Pair, child_config, host_selector
from tests.support.tshark import Frame, dissect, read_capture

from deadpeer.crash.options import CrashOptions, Method, PolicyOptions, QcdOptions, ResumptionOptions
from deadpeer.crash.sir_wire import CHECK_SPI
from deadpeer.crypto import Credential, Identity, TrustStore, parse_proposal
from deadpeer.ike.connection import EndpointConfig, LocalAuth, RemoteAuth
from deadpeer.ike.io import ExtensionCommand, Initiate, Rekey, Terminate
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    KEEPALIVE,
    EspPacket,
    ExchangeType,
    NotifyType,
    PayloadType,
    Protocol,
    classify,
    encode_esp,
)
from deadpeer.wire.udp import UdpKind

N, P, X = NotifyType, PayloadType, ExchangeType
PROTECTED = {X.IKE_AUTH, X.CREATE_CHILD_SA}
KEYLOG = EndpointConfig(keylog=True)


@pytest.fixture(autouse=True)
def _needs_tshark() -> None:
    if shutil.which("tshark") is None:
        reason = "needs tshark (Debian: tshark)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def logged_pair(**options: object) -> Pair:
    """A pair with a shared key and both key logs on."""
    config = options.pop("config", KEYLOG)
    return Pair.with_psk(alice_config=config, bob_config=config, **options)  # type: ignore[arg-type]


def dissected(pair: Pair, directory: Path, *, keys: bool = True) -> list[Frame]:
    """All that was sent, without a mark; protected messages verified (`keys` False: there is no table)."""
    log = [entry for side in (pair.alice, pair.bob) for entry in side.keylog]
    frames = dissect(directory, [(sent.at_ns, sent.datagram) for sent in pair.trace], log)
    assert len(frames) == len(pair.trace)
    unmarked(frames)
    for frame in frames if keys else ():
        if frame.exchange in PROTECTED or "esp" in frame.layers or P.SK in frame.payloads:
            assert frame.verified == 1, frame
    return frames


def unmarked(frames: Sequence[Frame]) -> None:
    marked = [(frame.number, frame.exchange, frame.marks) for frame in frames if frame.marks]
    assert not marked, marked


def notifies(frames: Sequence[Frame], exchange: int, *, response: bool) -> set[int]:
    """The notify types seen in messages of a kind."""
    of_kind = [f for f in frames if f.exchange == exchange and f.response is response]
    assert of_kind
    return {number for frame in of_kind for number in frame.notifies}


def payloads(frames: Sequence[Frame], exchange: int, *, response: bool) -> list[set[int]]:
    """The payload types of each message of a kind."""
    return [set(f.payloads) for f in frames if f.exchange == exchange and f.response is response]


V4, V6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
SUITES = ["aes128gcm16", "aes256gcm16", *(f"aes{n}-sha{m}" for n in (128, 256) for m in (256, 384, 512))]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "hosts", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")], ids=["v4", "v6"]
)
def test_whole_life_of_a_tunnel(suite: str, hosts: tuple[str, str], tmp_path: Path) -> None:
    """Both first exchanges, echoes, every rekeying from either side, a liveness check, both deletions."""
    ike = parse_proposal(f"{suite}-prfsha256-x25519", Protocol.IKE)
    esp = parse_proposal(f"{suite}-ecp256", Protocol.ESP)
    children = [
        child_config("net", esp_proposals=(esp,)),
        child_config("more", esp_proposals=(esp,), local_ts=(host_selector("fd00::1"),),
                     remote_ts=(host_selector("fd00::2"),)),
    ]  # fmt: skip
    pair = logged_pair(children=children, hosts=hosts, both={"proposals": (ike,), "dpd_delay_s": 5.0})
    pair.up(child="net")
    assert pair.ping()
    pair.up("bob", "more")
    assert pair.ping(source="fd00::1", target="fd00::2")
    for tag, name in enumerate(("alice", "bob"), 100):
        pair.feed(name, Rekey("home", "net", tag))
        pair.settle()
        pair.feed(name, Rekey("home", None, tag + 10))
        pair.settle()
        assert pair.ping()
    pair.run(6.0)
    pair.feed("alice", Terminate("home", "more", 120))
    pair.settle()
    pair.feed("bob", Terminate("home", None, 121))
    pair.settle()
    assert all(done.ok for side in (pair.alice, pair.bob) for done in side.done.values())

    frames = dissected(pair, tmp_path)
    assert sum("icmp" in f.layers or "icmpv6" in f.layers for f in frames) == 8
    for response in (False, True):
        assert notifies(frames, X.IKE_SA_INIT, response=response) >= {
            N.NAT_DETECTION_SOURCE_IP,
            N.NAT_DETECTION_DESTINATION_IP,
            N.IKEV2_FRAGMENTATION_SUPPORTED,
        }
        (auth,) = payloads(frames, X.IKE_AUTH, response=response)
        assert auth >= {P.AUTH, P.SA, P.TSI, P.TSR, P.IDR if response else P.IDI}
        assert N.QCD_TOKEN in notifies(frames, X.IKE_AUTH, response=response)
        kinds = Counter(
            (P.TSI in kind, P.KE in kind) for kind in payloads(frames, X.CREATE_CHILD_SA, response=response)
        )
        assert kinds == {(True, True): 3, (False, True): 2}, "one new child, two rekeyed, two IKE SAs"
        informational = payloads(frames, X.INFORMATIONAL, response=response)
        assert {P.SK} in informational, "liveness"
        assert {P.SK, P.DELETE} in informational
    assert N.REKEY_SA in notifies(frames, X.CREATE_CHILD_SA, response=False)
    assert N.QCD_TOKEN in notifies(frames, X.INFORMATIONAL, response=False)
    assert N.QCD_TOKEN in notifies(frames, X.CREATE_CHILD_SA, response=True)


def test_chacha20_poly1305_as_far_as_it_is_in_the_clear(tmp_path: Path) -> None:
    suite = parse_proposal("chacha20poly1305-prfsha256-x25519", Protocol.IKE)
    child = child_config(esp_proposals=(parse_proposal("chacha20poly1305", Protocol.ESP),))
    pair = logged_pair(children=[child], both={"proposals": (suite,)})
    pair.up()
    assert pair.ping()
    assert not pair.alice.keylog
    frames = dissected(pair, tmp_path, keys=False)
    assert [f.exchange for f in frames] == [34, 34, 35, 35, None, None]


def test_cookie_and_another_group(tmp_path: Path) -> None:
    groups = {"alice": "x25519-ecp256", "bob": "ecp256"}
    sides = {
        name: {"proposals": (parse_proposal(f"aes256gcm16-prfsha256-{words}", Protocol.IKE),)}
        for name, words in groups.items()
    }
    pair = logged_pair(config=replace(KEYLOG, cookie_threshold=0), **sides)
    pair.up()
    frames = dissected(pair, tmp_path)
    assert notifies(frames, X.IKE_SA_INIT, response=True) >= {N.COOKIE, N.INVALID_KE_PAYLOAD}
    assert N.COOKIE in notifies(frames, X.IKE_SA_INIT, response=False)


WEAK_ESP = parse_proposal("aes128-sha512", Protocol.ESP)
HERS, HIS = (host_selector("10.10.1.1"),), (host_selector("10.10.2.1"),)
REFUSALS: list[tuple[dict[str, object], int, int]] = [
    (
        {"proposals": (parse_proposal("aes128-sha512-ecp521", Protocol.IKE),)},
        X.IKE_SA_INIT,
        N.NO_PROPOSAL_CHOSEN,
    ),
    ({"remote": RemoteAuth("psk", Identity.parse("alice"), b"other")}, X.IKE_AUTH, N.AUTHENTICATION_FAILED),
    (
        {"children": (child_config(local_ts=(host_selector("10.10.9.9"),), remote_ts=HERS),)},
        X.IKE_AUTH,
        N.TS_UNACCEPTABLE,
    ),
    (
        {"children": (child_config(local_ts=HIS, remote_ts=HERS, esp_proposals=(WEAK_ESP,)),)},
        X.IKE_AUTH,
        N.NO_PROPOSAL_CHOSEN,
    ),
]


@pytest.mark.parametrize(
    ("changes", "exchange", "refusal"),
    REFUSALS,
    ids=["ike-proposal", "secret", "selectors", "esp-proposal"],
)
def test_refusals(changes: dict[str, object], exchange: int, refusal: int, tmp_path: Path) -> None:
    pair = logged_pair(bob=changes)
    pair.feed("alice", Initiate("home", None, 1))
    pair.settle()
    assert not pair.ping()
    frames = dissected(pair, tmp_path)
    assert refusal in notifies(frames, exchange, response=True)


R, T = Rekey, Terminate
COLLISIONS = [
    (R("home", None, 5), R("home", "net", 5), {N.TEMPORARY_FAILURE}),
    (R("home", "net", 5), R("home", "net", 5), set()),
    (R("home", None, 5), R("home", None, 5), set()),
    (T("home", "net", 5), R("home", "net", 5), {N.TEMPORARY_FAILURE}),
    (T("home", None, 5), R("home", None, 5), {N.TEMPORARY_FAILURE}),
]


@pytest.mark.parametrize(("hers", "his", "refusals"), COLLISIONS)
def test_collisions_of_both_sides(
    hers: Rekey | Terminate, his: Rekey | Terminate, refusals: set[int], tmp_path: Path
) -> None:
    pair = logged_pair(both={"initial_contact": True})
    pair.up()
    pair.feed("alice", hers)
    pair.feed("bob", his)
    pair.run(20.0)
    frames = dissected(pair, tmp_path)
    seen = {number for frame in frames for number in frame.notifies}
    assert seen >= refusals | {N.INITIAL_CONTACT}


@pytest.mark.parametrize("kind", ["ecp256", "rsa", "ed25519"])
def test_certificates_in_fragments(kind: str, tmp_path: Path) -> None:
    pair = certified_pair(kind)
    pair.up()
    assert pair.ping()
    log = [entry for side in (pair.alice, pair.bob) for entry in side.keylog]
    frames = dissect(tmp_path, [(sent.at_ns, sent.datagram) for sent in pair.trace], log)
    unmarked(frames)
    assert N.SIGNATURE_HASH_ALGORITHMS in notifies(frames, X.IKE_SA_INIT, response=False)
    for response in (False, True):
        parts = [f for f in frames if f.exchange == X.IKE_AUTH and f.response is response]
        assert len(parts) >= 2
        assert all(P.SKF in f.payloads and f.verified == 1 for f in parts)
        # tshark shows what the fragments held in the last one, once all are there.
        assert set(parts[-1].payloads) >= {P.CERT, P.AUTH}
    assert any(P.CERTREQ in f.payloads for f in frames)


def crashed(options: CrashOptions, **more: object) -> Pair:
    """Bob crashes, comes back, rotates his secret three times; Alice's host sends, and she recovers."""
    pair = logged_pair(both={"silence_s": 0.0, **more}, options=options)
    pair.up()
    assert pair.ping()
    pair.crash("bob")
    pair.boot("bob")
    for tag in range(3):
        pair.feed("bob", ExtensionCommand("qcd", "rotate", 200 + tag))
    for sequence in range(20):
        pair.send("alice", seq=sequence)
        pair.run(0.1)
    assert "verdict" in pair.alice.kinds()
    assert pair.ping()
    return pair


def test_answers_to_strangers_after_a_crash(tmp_path: Path) -> None:
    """INVALID_SPI, then INVALID_IKE_SPI with a token for each generation of the secret."""
    frames = dissected(crashed(CrashOptions(spi_map=False, announce=False)), tmp_path)
    hint = next(f for f in frames if N.INVALID_SPI in f.notifies)
    assert (hint.exchange, hint.response, hint.payloads) == (X.INFORMATIONAL, False, (P.NOTIFY,))
    answer = next(f for f in frames if N.INVALID_IKE_SPI in f.notifies)
    assert answer.response
    assert answer.notifies == (N.INVALID_IKE_SPI, *[N.QCD_TOKEN] * 4)


def test_token_at_once_from_the_spi_map(tmp_path: Path) -> None:
    frames = dissected(crashed(CrashOptions(announce=False)), tmp_path)
    answer = next(f for f in frames if N.INVALID_SPI in f.notifies)
    assert answer.notifies == (N.INVALID_SPI, *[N.QCD_TOKEN] * 4)
    assert (answer.exchange, answer.response) == (X.INFORMATIONAL, False)


def test_announcement_after_a_boot(tmp_path: Path) -> None:
    frames = dissected(crashed(CrashOptions()), tmp_path)
    assert any(f.notifies == (N.INVALID_SPI, N.QCD_TOKEN) and not f.response for f in frames)


def test_check_spi_and_its_answer(tmp_path: Path) -> None:
    sir_only = (QcdOptions("off"), PolicyOptions((Method.SIR, Method.LIVENESS)))
    frames = dissected(crashed(CrashOptions(announce=False), extensions=sir_only), tmp_path)
    checks = [f for f in frames if CHECK_SPI in f.notifies]
    assert {f.response for f in checks} == {False, True}
    assert all(f.notifies == (CHECK_SPI, N.COOKIE) for f in checks)
    # The Vendor ID says who answers such a question.
    assert any(P.VENDOR in f.payloads for f in frames if f.exchange == X.IKE_SA_INIT)


def test_session_resumption(tmp_path: Path) -> None:
    options = (ResumptionOptions(enabled=True), PolicyOptions((Method.QCD, Method.LIVENESS)))
    frames = dissected(crashed(CrashOptions(), extensions=options), tmp_path)
    assert N.TICKET_REQUEST in notifies(frames, X.IKE_AUTH, response=False)
    assert N.TICKET_LT_OPAQUE in notifies(frames, X.IKE_AUTH, response=True)
    assert N.TICKET_OPAQUE in notifies(frames, X.IKE_SESSION_RESUME, response=False)
    assert [P.NONCE in f.payloads for f in frames if f.exchange == X.IKE_SESSION_RESUME] == [True, True]


def test_lost_child_is_reported_inside_the_ike_sa(tmp_path: Path) -> None:
    pair = logged_pair()
    pair.up()
    ends = Address(pair.alice.host, 4500), Address(pair.bob.host, 4500)
    for sequence in range(1, 6):
        pair.inject(Datagram(encode_esp(EspPacket(0xC0FFEE00, sequence, bytes(40))), *ends))
        pair.run(0.5)
    frames = dissected(pair, tmp_path)
    reports = [f for f in frames if N.INVALID_SPI in f.notifies]
    assert reports
    assert all(P.SK in f.payloads for f in reports)


def test_version_and_critical_payload_that_we_do_not_know(tmp_path: Path) -> None:
    pair = logged_pair()
    pair.up()
    first = pair.trace[0].datagram
    version_3 = bytearray(first.payload)
    version_3[17] = 0x30
    # An unknown critical payload (type 250) at the head of the chain.
    size = len(first.payload) + 4
    critical = first.payload[:16] + bytes([250]) + first.payload[17:24] + size.to_bytes(4, "big")
    critical += bytes([first.payload[16], 0x80, 0, 4]) + first.payload[28:]
    before = len(pair.trace)
    for number, payload in enumerate((bytes(version_3), critical)):
        fresh = bytes([number + 1]) * 8 + payload[8:]
        pair.inject(Datagram(fresh, Address("192.0.2.7", 500), first.remote))
    log = pair.alice.keylog + pair.bob.keylog
    frames = dissect(tmp_path, [(s.at_ns, s.datagram) for s in pair.trace[before:]], log)
    assert [f.notifies for f in frames] == [(N.INVALID_MAJOR_VERSION,), (N.UNSUPPORTED_CRITICAL_PAYLOAD,)]
    unmarked(frames)


def test_nat_keepalive(tmp_path: Path) -> None:
    ends = Address("192.0.2.1", 4500), Address("192.0.2.2", 4500)
    frames = dissect(tmp_path, [(0, Datagram(KEEPALIVE, *ends))], [])
    assert frames[0].layers[-1] == "udpencap"
    unmarked(frames)
    assert classify(KEEPALIVE, True) is UdpKind.KEEPALIVE


def certified_pair(kind: str) -> Pair:
    """Certificates of one kind under a CA, and packets so small that IKE_AUTH is cut."""
    times: dict[str, Any] = {"start": START_UNIX_S - 1000, "end": START_UNIX_S + 100_000}
    ca = pki.root("C=CH, CN=root", kind, **times)
    locals_, remotes = {}, {}
    for name in ("alice", "bob"):
        san = x509.SubjectAlternativeName([x509.DNSName(f"{name}.example")])
        certificate = pki.leaf(kind, issuer_key=pki.key(kind), extensions=[(san, False)], **times)
        identity = Identity.parse(f"{name}.example")
        locals_[name] = LocalAuth("pubkey", identity, credential=Credential(pki.key(kind, 9), certificate))
        remotes[name] = RemoteAuth("pubkey", identity, trust=TrustStore([ca]))
    small = {"fragment_size": 576}
    return logged_pair(
        alice={"local": locals_["alice"], "remote": remotes["bob"], **small},
        bob={"local": locals_["bob"], "remote": remotes["alice"], **small},
    )


@pytest.mark.interop
def test_key_log_of_a_real_gateway_opens_a_real_capture(start_pair: StartPair, tmp_path: Path) -> None:
    """dumpcap listens beside a tunnel with strongSwan; the files that --keylog wrote decrypt what it saw."""
    tunnel = Tunnel("seen", 1, esp="aes256-sha256-x25519")
    profile = tmp_path / "keylog"
    profile.mkdir(mode=0o700)
    pair = start_pair([tunnel], keylog=profile)
    capture = tmp_path / "link.pcapng"
    with pair.capturing("a", capture, "udp port 500 or udp port 4500"):
        pair.up(tunnel, by="a")
        pair.carries(tunnel)
        pair.rekey_child(tunnel, "b")
        pair.rekey_ike(tunnel, "a")
        pair.carries(tunnel)
        pair.down(tunnel, by="a")
    frames = read_capture(capture, profile)
    assert sum("icmp" in f.layers for f in frames) == 20
    assert {f.exchange for f in frames} >= {34, 35, 36, 37}
    unmarked(frames)
    sealed = [f for f in frames if f.exchange in (35, 36, 37) or "esp" in f.layers]
    assert all(f.verified == 1 for f in sealed)
