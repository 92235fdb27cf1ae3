"""Carries out what a member asks of the store, on etcd (3.4 or newer), by its JSON gateway.

A few threads wait for etcd so that the loop does not. Reads and keepalives go on to the next endpoint when
one does not answer; a transaction is tried once, as nobody knows whether an unanswered one was carried out:
who asked reads everything anew.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception

from deadpeer.cluster.membership import PATIENCE_S
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

from .cluster_config import EtcdOptions

ATTEMPT_S = 0.8
"""How long one endpoint may take to answer."""
LOGIN_S = 5.0
"""How long a login may take: passwords are slow to check on purpose, and many members may ask at once."""
WATCH_S = 10.0
"""A watch that says nothing for so long is begun anew: its connection may be dead."""
_API = "/v3/"
_UNAUTHENTICATED = ("invalid auth token", "user name is empty", "revision of auth store is old")
# A watch must end when its etcd member has lost the others (clientv3.WithRequireLeader).
_REQUIRE_LEADER = {"Grpc-Metadata-hasleader": "true"}

Post = Callable[[str, Mapping[str, Any]], Any]


class EtcdStore:
    """Takes requests by `ask`, hands what comes of them to `deliver`, which is called in other threads."""

    def __init__(self, options: EtcdOptions, deliver: Callable[[Input], None]) -> None:
        self._deliver = deliver
        self._closed = False
        self._watch: _Watcher | None = None
        self._options = options
        self._login = _Login(options)
        self._terms = _Terms()
        # Keepalives have a thread of their own: nothing that hangs may hold them up.
        self._keeping = self._worker("etcd-keepalive")
        # Questions that measure our clock hold up nothing, and nothing makes them late.
        self._measuring = self._worker("etcd-clock")
        self._asking = [self._worker(f"etcd-{number}") for number in range(2)]
        self._turn = 0

    def ask(self, asked: Asked) -> None:
        """Begin to carry out a request. A `Watch` replaces an earlier one, and has no reply."""
        if self._closed:
            return
        match asked.request:
            case Watch():
                self._end_watch()
                endpoints = _Endpoints(self._options, self._login)
                self._watch = _Watcher(endpoints, asked.request, self._deliver)
            case KeepAlive():
                self._keeping.put(asked)
            case TimeToLive():
                self._measuring.put(asked)
            case _:
                self._turn = (self._turn + 1) % len(self._asking)
                self._asking[self._turn].put(asked)

    def close(self) -> None:
        """Deliver nothing more. Threads end by themselves, and hold up no exit."""
        self._closed = True
        self._end_watch()
        for worker in (self._keeping, self._measuring, *self._asking):
            worker.put(None)

    def _worker(self, name: str) -> _Worker:
        return _Worker(name, _Endpoints(self._options, self._login), self._carry_out)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def _carry_out(self, endpoints: _Endpoints, asked: Asked) -> None:
        began = time.monotonic()
        reply: Reply = Failed("not tried")
        for _ in endpoints:
            try:
                reply = carry_out(endpoints.post, asked.request)
                if isinstance(reply, RangeReply):
                    reply = self._terms.named(reply, endpoints.term)
                break
            except (Etcd3Exception, requests.RequestException, OSError) as error:
                reply = Failed(f"{endpoints.name}: {_why(error)}")
            except Exception as error:  # Whatever it was: the thread must live, and who asked gets a reply.
                reply = Failed(f"{endpoints.name}: not an answer of etcd ({type(error).__name__})")
            endpoints.next()
            repeatable = isinstance(asked.request, Range | KeepAlive | TimeToLive)
            if not repeatable or time.monotonic() - began > PATIENCE_S - ATTEMPT_S:
                break
        if not self._closed:
            self._deliver(Replied(asked.number, reply))


def carry_out(post: Post, request: Request) -> Reply:
    """One request. `post` takes a path and a JSON object, and returns the one that etcd answers."""
    match request:
        case Range(prefix=prefix):
            # Linearizable: `serializable` is left out, so that the leader is asked.
            found = post("kv/range", {"key": _b64(prefix), "range_end": _b64(_after(prefix))})
            header = found["header"]
            items = tuple(_item(each) for each in found.get("kvs", ()))
            return RangeReply(int(header["revision"]), items, str(header["cluster_id"]))
        case Grant(ttl_s=ttl_s):
            found = post("lease/grant", {"TTL": ttl_s})
            return GrantReply(int(found["ID"]), int(found["TTL"]), _term(found))
        case KeepAlive(lease=lease):
            found = post("lease/keepalive", {"ID": lease})
            return KeepAliveReply(int(found["result"].get("TTL", 0)))
        case TimeToLive(lease=lease):
            found = post("lease/timetolive", {"ID": lease})
            return TimeToLiveReply(lease, int(found.get("TTL", 0)), _term(found))
        case Revoke(lease=lease):
            post("lease/revoke", {"ID": lease})
            return Done()
        case Txn(unchanged=unchanged, puts=puts):
            found = post("kv/txn", {"compare": _compares(unchanged), "success": [_put(put) for put in puts]})
            int(found["header"]["revision"])
            return TxnReply(found.get("succeeded") is True)
        case Watch():
            raise TypeError("a watch is not one request")


class _Terms:
    """Names the store: another one after a restore, which may keep etcd's cluster id (the same peers and
    token give the same id) but begins Raft's terms anew.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._highest: dict[str, int] = {}
        self._restored: dict[str, int] = {}

    def named(self, reply: RangeReply, term: int) -> RangeReply:
        with self._lock:
            if term < self._highest.get(reply.store, 0):
                self._restored[reply.store] = self._restored.get(reply.store, 0) + 1
            self._highest[reply.store] = term
            name = f"{reply.store}/{self._restored.get(reply.store, 0)}"
        return RangeReply(reply.revision, reply.items, name)


class _Login:
    """The token that all threads show. One login serves them all, and one at a time is under way."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        self._lock = Lock()
        self._token: str | None = None

    def show(self, client: Etcd3Client) -> str | None:
        """Have a client show the token, and return it; None: there is none yet."""
        token = self._token
        if token is not None:
            client.session.headers["Authorization"] = token
        return token

    def renew(self, endpoint: str, refused: str | None) -> None:
        """Log in, unless another thread has since etcd refused that token. Raises as any request does."""
        with self._lock:
            if self._token != refused:
                return
            who = {"name": self._options.user, "password": self._options.password}
            client = _client(self._options, endpoint, LOGIN_S)
            with client.session:
                self._token = str(client.post(client.get_url("auth/authenticate"), json=who)["token"])


class _Endpoints:
    """etcd's endpoints as one thread sees them: the one that answered last comes first."""

    def __init__(self, options: EtcdOptions, login: _Login) -> None:
        self._options = options
        self._login = login
        self._clients = [_client(options, endpoint, ATTEMPT_S) for endpoint in options.endpoints]
        self._now = 0
        self.term = 0
        """Raft's, as of the last answer."""

    def __iter__(self) -> Any:
        return iter(range(len(self._clients)))

    @property
    def name(self) -> str:
        return self._options.endpoints[self._now]

    @property
    def client(self) -> Etcd3Client:
        return self._clients[self._now]

    def next(self) -> None:
        self._now = (self._now + 1) % len(self._clients)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Ask the endpoint whose turn it is; log in first where that is needed."""
        found = self.logged_in(lambda client: client.post(client.get_url(path), json=body))
        header = found.get("header") or found.get("result", {}).get("header", {})
        self.term = int(header.get("raft_term", 0))
        return found

    def logged_in(self, work: Callable[[Etcd3Client], Any]) -> Any:
        """What `work` returns; where etcd wants a (new) token, that is fetched and the work done again."""
        client = self.client
        shown = self._login.show(client)
        try:
            return work(client)
        except Etcd3Exception as error:
            if self._options.user is None or not _wants_login(_text(error)):
                raise
        self._login.renew(self.name, shown)
        self._login.show(client)
        return work(client)


class _Worker:
    """A thread that carries out one request after the other."""

    def __init__(self, name: str, endpoints: _Endpoints, work: Callable[[_Endpoints, Asked], None]) -> None:
        self._queue: SimpleQueue[tuple[float, Asked | None]] = SimpleQueue()
        self._endpoints = endpoints
        self._work = work
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, asked: Asked | None) -> None:
        self._queue.put((time.monotonic(), asked))

    def _run(self) -> None:
        while True:
            at_s, asked = self._queue.get()
            if asked is None:
                return
            # Who asked so long ago has given it up.
            if time.monotonic() - at_s < PATIENCE_S:
                self._work(self._endpoints, asked)


class _Watcher:
    """A thread that follows the changes under a prefix until it is ended or loses them."""

    def __init__(self, endpoints: _Endpoints, watch: Watch, deliver: Callable[[Input], None]) -> None:
        self._deliver = deliver
        self._ended = False
        self._watch = watch
        self._after = watch.after
        self._endpoints = endpoints
        Thread(target=self._run, name="etcd-watch", daemon=True).start()

    def end(self) -> None:
        """Say nothing more; the thread ends when etcd speaks next, or after `WATCH_S`."""
        self._ended = True

    def _run(self) -> None:
        misses = 0
        why = "ended"
        while not self._ended and misses < len(list(self._endpoints)):
            try:
                self._endpoints.logged_in(self._follow)
                misses = 0
            except _Quiet:
                misses = 0
            except (_Lost, Etcd3Exception, requests.RequestException, OSError) as error:
                why = f"{self._endpoints.name}: {_why(error)}"
                if isinstance(error, _Lost):
                    break
                misses += 1
                self._endpoints.next()
            except Exception as error:  # Whatever it was: who waits for news must hear that none will come.
                why = f"{self._endpoints.name}: not an answer of etcd ({type(error).__name__})"
                break
        if not self._ended:
            self._deliver(WatchLost(why))

    def _follow(self, client: Etcd3Client) -> None:
        """One connection's worth. Ends with an exception, or when nobody wants it any more."""
        create = {
            "key": _b64(self._watch.prefix),
            "range_end": _b64(_after(self._watch.prefix)),
            "start_revision": self._after + 1,
        }
        with _stream(client, {"create_request": create}) as response:
            try:
                for line in response.iter_lines(chunk_size=1 << 16):
                    if self._ended:
                        return
                    if line.strip():
                        self._take(json.loads(line))
            except requests.ConnectionError as error:
                if "Read timed out" in str(error):
                    raise _Quiet from None
                raise
        raise requests.ConnectionError("the watch's connection ended")

    def _take(self, chunk: Mapping[str, Any]) -> None:
        result = chunk.get("result", {})
        if "error" in chunk or result.get("canceled"):
            error = chunk.get("error", {}).get("message") or result.get("cancel_reason") or "canceled by etcd"
            if _wants_login(str(error)):
                raise Etcd3Exception(str(error))
            raise _Lost(str(error)[:200])
        revision = int(result["header"]["revision"])
        if revision < self._after:
            raise _Lost("the store went back to an earlier revision")
        if result.get("events"):
            self._after = max(self._after, *(int(e["kv"]["mod_revision"]) for e in result["events"]))
            self._deliver_unless_ended()

    def _deliver_unless_ended(self) -> None:
        if not self._ended:
            self._deliver(Changed())


class _Quiet(Exception):  # noqa: N818 -- nothing is wrong
    """Nothing came for `WATCH_S`."""


class _Lost(Exception):  # noqa: N818 -- what WatchLost will say
    """Changes may have been missed."""


def _client(options: EtcdOptions, endpoint: str, timeout_s: float) -> Etcd3Client:
    session = requests.Session()
    # No proxy, no .netrc, no other CAs, whatever the environment says.
    session.trust_env = False
    if options.ca is not None:
        session.verify = str(options.ca)
    if options.certificate is not None and options.key is not None:
        session.cert = (str(options.certificate), str(options.key))
    parts = urlsplit(endpoint)
    return Etcd3Client(
        host=parts.hostname or "",
        port=parts.port or 2379,
        protocol=parts.scheme,
        timeout=timeout_s,
        api_path=_API,
        session=session,
    )


def _stream(client: Etcd3Client, body: Mapping[str, Any]) -> requests.Response:
    response = client.session.post(
        client.get_url("watch"),
        json=body,
        headers=_REQUIRE_LEADER,
        stream=True,
        timeout=(ATTEMPT_S, WATCH_S),
        allow_redirects=False,
    )
    if response.status_code != 200:
        with response:
            raise Etcd3Exception(response.text[:1000], response.reason)
    return response


def _term(found: Mapping[str, Any]) -> int:
    """Raft's: one for each leader."""
    return int(found["header"]["raft_term"])


def _compares(unchanged: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    # A key that is not there compares as one of revision 0.
    equal: Literal["EQUAL"] = "EQUAL"
    return [
        {"key": _b64(key), "target": "MOD", "result": equal, "mod_revision": str(revision)}
        for key, revision in unchanged
    ]


def _put(put: Put) -> dict[str, Any]:
    value = b64encode(put.value).decode()
    return {"request_put": {"key": _b64(put.key), "value": value, "lease": str(put.lease)}}


def _item(each: Mapping[str, Any]) -> Item:
    return Item(
        b64decode(each["key"]).decode(),
        b64decode(each.get("value", "")),
        int(each["mod_revision"]),
        int(each.get("lease", 0)),
    )


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _after(prefix: str) -> str:
    """The first key behind all that begin with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _wants_login(text: str) -> bool:
    return any(sign in text for sign in _UNAUTHENTICATED)


def _text(error: Exception) -> str:
    return getattr(error, "detail_text", None) or str(error)


def _why(error: Exception) -> str:
    """One line for a person; never a password or token, as etcd's answers and requests' errors have none."""
    text = _text(error)
    with suppress(ValueError, AttributeError, RecursionError):
        text = str(json.loads(text).get("error", text))
    for sign, words in (
        ("timed out", "no answer in time"),
        ("Connection refused", "connection refused"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not by etcd_ca, or for another name"),
        ("alert", "it refuses our certificate, or wants one"),
        ("SSLEOFError", "it refuses our certificate, or wants one"),
        ("Connection aborted", "connection broken"),
        ("Connection reset", "connection broken"),
    ):
        if sign in text:
            return words
    return " ".join(text.split())[:200] or type(error).__name__
