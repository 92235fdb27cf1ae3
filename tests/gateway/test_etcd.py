"""What a member asks, carried out on a real etcd: its guarantees, its refusals, and its absence."""

from __future__ import annotations

import datetime
import queue
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from etcd3gw.client import Etcd3Client
from tests.support.etcd import EtcdServer, needs_etcd

from deadpeer.cluster.store import (
    Asked,
    Changed,
    Done,
    Failed,
    Grant,
    GrantReply,
    Input,
    Item,
    KeepAlive,
    KeepAliveReply,
    Put,
    Range,
    RangeReply,
    Replied,
    Reply,
    Request,
    Revoke,
    TimeToLive,
    TimeToLiveReply,
    Txn,
    TxnReply,
    Watch,
    WatchLost,
)
from deadpeer.gateway import etcd as module
from deadpeer.gateway.cluster_config import EtcdOptions
from deadpeer.gateway.etcd import EtcdStore

pytestmark = needs_etcd
P = "/deadpeer/test/"
PATIENCE_S = 90.0


class Asker:
    """Asks and waits for the answer."""

    def __init__(self, options: EtcdOptions) -> None:
        self.heard: queue.Queue[Input] = queue.Queue()
        self._replies: queue.Queue[Replied] = queue.Queue()
        self.store = EtcdStore(options, self._sort)
        self._number = 0

    def ask(self, request: Request) -> Reply:
        self._number += 1
        self.store.ask(Asked(self._number, request))
        item = self._replies.get(timeout=PATIENCE_S)
        assert item.number == self._number
        return item.reply

    def _sort(self, item: Input) -> None:
        self._replies.put(item) if isinstance(item, Replied) else self.heard.put(item)

    def range(self) -> RangeReply:
        reply = self.ask(Range(P))
        assert isinstance(reply, RangeReply), reply
        return reply

    def grant(self, ttl_s: int = 20) -> int:
        reply = self.ask(Grant(ttl_s))
        assert isinstance(reply, GrantReply) and reply.ttl_s >= ttl_s
        return reply.lease

    def left(self, lease: int) -> TimeToLiveReply:
        reply = self.ask(TimeToLive(lease))
        assert isinstance(reply, TimeToLiveReply), reply
        return reply

    def watch(self, after: int) -> None:
        self._number += 1
        self.store.ask(Asked(self._number, Watch(P, after)))

    def put(self, name: str = "key") -> None:
        assert self.ask(Txn((), (Put(P + name, b"x"),))) == TxnReply(True)


def news(asker: Asker) -> Input:
    return asker.heard.get(timeout=PATIENCE_S)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway asks elsewhere soon; a test has nowhere else, and a disk may be busy."""
    monkeypatch.setattr(module, "ATTEMPT_S", 10.0)
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)


@pytest.fixture
def server(place: Path) -> Iterator[EtcdServer]:
    made = EtcdServer(place)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def asker(server: EtcdServer) -> Iterator[Asker]:
    made = Asker(EtcdOptions((server.endpoint,)))
    yield made
    made.store.close()


def test_a_transaction_writes_all_or_nothing(asker: Asker, server: EtcdServer) -> None:
    lease = asker.grant()
    both = (Put(P + "a", b"\x00\xff", lease), Put(P + "b", b"2"))
    assert asker.ask(Txn(((P + "a", 0), (P + "b", 0)), both)) == TxnReply(True)
    found = asker.range()
    assert found.items == (
        Item(P + "a", b"\x00\xff", found.revision, lease),
        Item(P + "b", b"2", found.revision, 0),
    )
    # Outrun: one of two conditions fails.
    assert asker.ask(Txn(((P + "b", found.revision), (P + "a", 0)), (Put(P + "b", b"3"),))) == TxnReply(False)
    assert asker.range().items == found.items
    assert asker.ask(Txn(((P + "b", found.revision),), (Put(P + "b", b"3"),))) == TxnReply(True)
    assert [item.value for item in asker.range().items] == [b"\x00\xff", b"3"]
    assert set(server.contents()) == {P + "a", P + "b"}


def test_only_what_begins_with_the_prefix_is_read(asker: Asker, server: EtcdServer) -> None:
    for key in ("/deadpeer/tesT", "/deadpeer/test", "/deadpeer/test0", P + "in", "/deadpeer/test/"):
        server.control("put", key, "v")
    assert [item.key for item in asker.range().items] == [P, P + "in"]


def test_a_lease_runs_out_with_its_keys_and_can_not_be_used_again(asker: Asker) -> None:
    lease = asker.grant(4)
    assert asker.ask(Txn((), (Put(P + "l", b"1", lease),))) == TxnReply(True)
    asker.watch(asker.range().revision)
    for _ in range(11):
        time.sleep(0.4)
        assert asker.ask(KeepAlive(lease)) == KeepAliveReply(4.0)
    assert [item.key for item in asker.range().items] == [P + "l"]
    assert news(asker) == Changed()  # nobody keeps it any more
    assert asker.range().items == ()
    assert asker.ask(KeepAlive(lease)) == KeepAliveReply(0.0)
    failed = asker.ask(Txn((), (Put(P + "l", b"1", lease),)))
    assert isinstance(failed, Failed) and "requested lease not found" in failed.why
    assert isinstance(asker.ask(Revoke(lease)), Failed)


def test_a_lease_that_is_given_back_takes_its_keys_along(asker: Asker) -> None:
    lease = asker.grant(60)
    assert asker.ask(Txn((), (Put(P + "l", b"1", lease),))) == TxnReply(True)
    assert asker.ask(Revoke(lease)) == Done()
    assert asker.range().items == ()


def test_a_watch_tells_of_changes_after_its_revision(
    asker: Asker, server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.3)  # quiet for so long: it is begun anew, and nobody notices
    before = asker.range().revision
    asker.put("missed")
    asker.watch(before)
    assert news(asker) == Changed()
    time.sleep(1.0)
    assert asker.heard.empty()
    server.control("put", "/deadpeer/other/key", "v")
    server.control("put", P + "key", "v")
    assert news(asker) == Changed()
    server.control("del", P + "key")
    assert news(asker) == Changed()
    time.sleep(0.5)
    assert asker.heard.empty()


def test_a_watch_that_may_have_missed_something_says_so(asker: Asker, server: EtcdServer) -> None:
    for _ in range(3):
        asker.put()
    server.control("compact", str(asker.range().revision))
    asker.watch(1)
    assert isinstance(news(asker), WatchLost)
    asker.watch(asker.range().revision)
    asker.put()
    assert news(asker) == Changed()
    server.kill()
    lost = news(asker)
    assert isinstance(lost, WatchLost) and server.endpoint in lost.why


def test_what_is_left_of_a_lease(asker: Asker, server: EtcdServer) -> None:
    """Whole seconds, rounded down, and less each time, as long as the leader is the same."""
    granted = asker.ask(Grant(600))
    assert isinstance(granted, GrantReply)
    lease = granted.lease
    first, second = asker.left(lease), asker.left(lease)
    assert granted.ttl_s > first.ttl_s >= second.ttl_s > 0
    assert granted.term == first.term == second.term > 0
    server.kill()
    server.start()
    assert asker.left(lease).term > first.term
    asker.ask(Revoke(lease))
    assert asker.left(lease).ttl_s == -1


def test_a_watch_of_an_etcd_that_was_frozen_goes_on(
    asker: Asker, server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.3)
    asker.watch(asker.range().revision)
    server.freeze()
    assert isinstance(news(asker), WatchLost)
    server.thaw()


def test_another_endpoint_is_asked_when_one_does_not_answer(server: EtcdServer) -> None:
    dead = f"http://{server.host}:9"
    asker = Asker(EtcdOptions((dead, server.endpoint)))
    try:
        lease_reply = asker.ask(Grant(5))
        # What may be done twice is tried elsewhere at once; the rest at the next time.
        assert isinstance(lease_reply, Failed) and lease_reply.why == f"{dead}: connection refused"
        asker.ask(Grant(5))
        lease = asker.grant(20)
        assert asker.ask(KeepAlive(lease)) == KeepAliveReply(20.0)
        assert asker.range().items == ()
        asker.watch(1)
        asker.put()
        assert news(asker) == Changed()
    finally:
        asker.store.close()


def test_nothing_waits_long_for_an_etcd_that_does_not_answer(
    asker: Asker, server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = asker.grant(30)
    server.freeze()
    monkeypatch.setattr(module, "ATTEMPT_S", 0.3)
    monkeypatch.setattr(module, "PATIENCE_S", 0.8)
    hasty = Asker(EtcdOptions((server.endpoint,)))
    try:
        for request in (Range(P), KeepAlive(lease), Txn((), (Put(P + "a", b""),))):
            assert hasty.ask(request) == Failed(f"{server.endpoint}: no answer in time")
    finally:
        hasty.store.close()
    server.thaw()
    assert isinstance(asker.ask(KeepAlive(lease)), KeepAliveReply)


def test_a_store_that_was_restored_from_a_backup_is_another_one(
    asker: Asker, server: EtcdServer, place: Path
) -> None:
    asker.put("before")
    first = asker.range()
    assert asker.range().store == first.store
    server.control("snapshot", "save", str(place / "backup"))
    server.kill()
    server.start()  # the same store: Raft's terms go on
    assert asker.range().store == first.store
    server.kill()
    server.restore(place / "backup")
    server.start()
    assert asker.range().items == first.items
    assert asker.range().store != first.store


def test_a_password_is_shown_when_it_is_asked_for_and_again_when_it_was_forgotten(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One login serves all threads: eight members with five each asked too much of an etcd that came back."""
    logins: list[str] = []
    post = Etcd3Client.post

    def counted(client: Etcd3Client, path: str, **more: object) -> object:
        logins.extend([path] if path.endswith("authenticate") else [])
        return post(client, path, **more)

    monkeypatch.setattr(Etcd3Client, "post", counted)
    for words in (
        ("user", "add", "root:root"),
        ("user", "grant-role", "root", "root"),
        ("user", "add", "deadpeer:pass word"),
        ("role", "add", "members"),
        ("role", "grant-permission", "--prefix=true", "members", "readwrite", P),
        ("user", "grant-role", "deadpeer", "members"),
        ("auth", "enable"),
    ):
        server.control(*words)
    good = EtcdOptions((server.endpoint,), user="deadpeer", password="pass word")  # noqa: S106
    asker = Asker(good)
    try:
        lease = asker.grant()
        asker.watch(asker.range().revision)
        assert asker.ask(Txn((), (Put(P + "a", b"1", lease),))) == TxnReply(True)
        assert news(asker) == Changed()
        assert asker.ask(KeepAlive(lease)) == KeepAliveReply(20.0)
        assert 0 < asker.left(lease).ttl_s < 20
        denied = asker.ask(Txn((), (Put("/elsewhere", b"1"),)))
        assert isinstance(denied, Failed) and "permission denied" in denied.why
        server.kill()
        assert len(logins) == 1
        server.start()  # it may have forgotten our token
        assert all(isinstance(asker.range(), RangeReply) for _ in range(4))
        assert isinstance(asker.ask(KeepAlive(lease)), KeepAliveReply)
        assert len(logins) <= 2
    finally:
        asker.store.close()
    for options, says in (
        (EtcdOptions((server.endpoint,)), "user name is empty"),
        (EtcdOptions((server.endpoint,), user="deadpeer", password="wrong"), "authentication failed"),  # noqa: S106
    ):
        stranger = Asker(options)
        failed = stranger.ask(Range(P))
        stranger.store.close()
        assert isinstance(failed, Failed) and says in failed.why and "wrong" not in failed.why


@pytest.fixture
def three(place: Path) -> Iterator[list[EtcdServer]]:
    servers = [EtcdServer(place, name=f"etcd{number}") for number in range(3)]
    try:
        for server in servers:
            server.peers = servers
            server.spawn()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.close()


def test_an_etcd_of_three_loses_its_leader_and_no_lease(three: list[EtcdServer]) -> None:
    [leader] = [server for server in three if server.leads]
    others = [server for server in three if server is not leader]
    asker = Asker(EtcdOptions(tuple(server.endpoint for server in (leader, *others))))
    try:
        lease = asker.grant(20)
        assert asker.ask(Txn((), (Put(P + "l", b"1", lease),))) == TxnReply(True)
        before, term = asker.range(), asker.left(lease).term
        leader.kill()
        until = time.monotonic() + PATIENCE_S
        while not isinstance(asker.ask(KeepAlive(lease)), KeepAliveReply):
            assert time.monotonic() < until
            time.sleep(0.1)
        after = asker.range()
        assert (after.items, after.store) == (before.items, before.store)
        assert asker.left(lease).term > term
        leader.start()
        for _ in range(5):
            assert asker.range().store == before.store
    finally:
        asker.store.close()


def test_a_watch_of_an_etcd_that_has_lost_the_others_is_lost(three: list[EtcdServer]) -> None:
    """Otherwise it would be silent for as long as that lasts."""
    asker = Asker(EtcdOptions((three[0].endpoint,)))
    try:
        asker.watch(asker.range().revision)
        asker.put()
        assert news(asker) == Changed()
        for server in three[1:]:
            server.kill()
        lost = news(asker)
        assert isinstance(lost, WatchLost) and "no leader" in lost.why
        # Nor does it answer from what it has: a read must be linearizable.
        assert isinstance(asker.ask(Range(P)), Failed)
    finally:
        asker.store.close()


def certificate(
    place: Path,
    name: str,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    host: str = "127.0.0.1",
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, Path, Path]:
    """A certificate for that address, or a CA's; its PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .sign(key if issuer is None else issuer[1], SHA256())
    )
    files = place / f"{name}.pem", place / f"{name}.key"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].touch(mode=0o600)
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made, key, *files


def test_tls_in_both_directions(place: Path) -> None:
    ca, ca_key, ca_file, _ = certificate(place, "ca")
    server = EtcdServer(place)
    _, _, server_file, server_key = certificate(place, "server", (ca, ca_key), server.host)
    _, _, ours, our_key = certificate(place, "member", (ca, ca_key))
    _, _, other_ca, _ = certificate(place, "other-ca")
    server.tls = ca_file, server_file, server_key
    try:
        server.start()
        asker = Asker(EtcdOptions((server.endpoint,), ca_file, ours, our_key))
        asker.watch(asker.range().revision)
        asker.put()
        assert news(asker) == Changed()
        asker.store.close()
        for options, says in (
            (EtcdOptions((server.endpoint,), other_ca, ours, our_key), "is not by etcd_ca"),
            (EtcdOptions((server.endpoint,), ca_file), "refuses our certificate, or wants one"),
        ):
            stranger = Asker(options)
            failed = stranger.ask(Range(P))
            stranger.store.close()
            assert isinstance(failed, Failed) and says in failed.why
    finally:
        server.close()


def test_what_is_no_etcd_is_no_answer(place: Path) -> None:
    import http.server
    import threading

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"header": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{other.server_port}"
        asker = Asker(EtcdOptions((endpoint,)))
        for request in (Range(P), Grant(5), KeepAlive(1), Txn((), (Put(P, b""),))):
            failed = asker.ask(request)
            assert isinstance(failed, Failed) and failed.why.startswith(f"{endpoint}: not an answer of etcd")
        asker.store.close()
        other.shutdown()
