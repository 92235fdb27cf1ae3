"""Something answers in the place of etcd whatever it likes: every request has a reply, and no thread dies."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deadpeer.cluster.store import (
    Asked,
    Failed,
    Grant,
    Input,
    KeepAlive,
    Range,
    Replied,
    Reply,
    Request,
    Revoke,
    TimeToLive,
    Txn,
    TxnReply,
    Watch,
    WatchLost,
)
from deadpeer.gateway.cluster_config import EtcdOptions
from deadpeer.gateway.etcd import EtcdStore

PATIENCE_S = 30.0
NONSENSE = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"[" * 100_000,
    b'{"header": null, "result": null, "ID": null, "TTL": null}',
    b'{"header": [], "result": [], "kvs": 5}',
    b'{"header": {"revision": Infinity, "cluster_id": 1, "raft_term": 1}, "ID": Infinity, "TTL": Infinity,'
    b' "result": {"TTL": Infinity}}',
    b'{"header": {"revision": NaN, "raft_term": NaN}, "ID": "1", "TTL": NaN, "result": {"TTL": NaN}}',
    b'{"header": {"revision": "1", "cluster_id": "1", "raft_term": "x"}, "ID": "1", "TTL": "y",'
    b' "result": {"header": {"raft_term": "x"}, "TTL": "1"}}',
    b'{"header": {"revision": "1", "cluster_id": "1"}, "kvs": [{"key": "/w==", "mod_revision": "1"}]}',
    b'{"header": {"revision": "' + b"9" * 5000 + b'"}, "ID": "' + b"9" * 5000 + b'", "TTL": "1e400"}',
]


class Impostor(ThreadingHTTPServer):
    """Says `body` to everybody."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.body = b""
        self.status = 200


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Impostor)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_request(self, *args: object) -> None:
        pass


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    with Impostor() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Asker:
    def __init__(self, server: Impostor) -> None:
        self.heard: queue.Queue[Input] = queue.Queue()
        self.store = EtcdStore(EtcdOptions((f"http://127.0.0.1:{server.server_address[1]}",)), self.heard.put)
        self._number = 0

    def ask(self, request: Request) -> Reply:
        self._number += 1
        self.store.ask(Asked(self._number, request))
        item = self.heard.get(timeout=PATIENCE_S)
        assert isinstance(item, Replied) and item.number == self._number
        return item.reply


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_every_request_is_answered_whatever_comes_back(impostor: Impostor, body: bytes, status: int) -> None:
    impostor.body, impostor.status = body, status
    asker = Asker(impostor)
    # Twice each: the thread that took the first one must have lived through it.
    for request in (Range("/p/"), Grant(5), KeepAlive(7), TimeToLive(7), Txn((), ())) * 2:
        reply = asker.ask(request)
        if reply != TxnReply(False):  # "outrun" does no harm
            assert isinstance(reply, Failed), (request, reply)
            assert len(reply.why) < 300
    if status != 200:
        assert isinstance(asker.ask(Revoke(7)), Failed)
    asker.store.close()


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_a_watch_that_can_t_be_read_is_lost_and_says_so(impostor: Impostor, body: bytes) -> None:
    impostor.body = body + b"\n"
    asker = Asker(impostor)
    asker.store.ask(Asked(1, Watch("/p/", 1)))
    item = asker.heard.get(timeout=PATIENCE_S)
    assert isinstance(item, WatchLost)
    assert len(item.why) < 300
    asker.store.close()
