"""The control socket: who may open it, what it makes of nonsense, what happens to slow readers."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deadpeer.gateway import client, control
from deadpeer.gateway.control import ControlServer, Reply
from deadpeer.gateway.errors import ConfigError


async def echo(command: str, args: Mapping[str, Any]) -> Reply:
    return Reply(command != "fail", f"did {command}", {"args": dict(args)})


def serve(place: Path, work: Callable[[ControlServer, Path], Awaitable[None]]) -> None:
    """Run `work` beside a server on `place`/c."""

    async def main() -> None:
        server = ControlServer(place / "c", echo, "gw.toml")
        await server.start()
        try:
            await asyncio.wait_for(work(server, place / "c"), 90)
        finally:
            await server.close()

    asyncio.run(main())


async def talk(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send lines, return as many answers."""
    reader, writer = await asyncio.open_unix_connection(path)
    answers = []
    for line in lines:
        writer.write(line)
        answers.append(json.loads(await reader.readline()))
    writer.close()
    return answers


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 60 s")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_request_and_its_answer(place: Path) -> None:
    async def work(_: ControlServer, path: Path) -> None:
        request = json.dumps({"id": "x", "cmd": "up", "args": {"connection": "home"}}).encode() + b"\n"
        assert await talk(path, request, b'{"cmd": "fail"}\n') == [
            {"id": "x", "ok": True, "text": "did up", "data": {"args": {"connection": "home"}}},
            {"id": None, "ok": False, "text": "did fail", "data": {"args": {}}},
        ]

    serve(place, work)


def test_only_the_owner_may_open_it_and_it_goes_away(place: Path) -> None:
    async def work(_: ControlServer, path: Path) -> None:
        assert mode(path) == 0o600

    serve(place, work)
    assert not (place / "c").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"cmd": 1}\n',
        b'{"cmd": "up", "args": []}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
    ],
)
def test_nonsense_is_answered_and_the_next_request_works(place: Path, line: bytes) -> None:
    async def work(_: ControlServer, path: Path) -> None:
        bad, good = await talk(path, line, b'{"cmd": "sas"}\n')
        assert bad["ok"] is False
        assert "not a request" in bad["text"]
        assert good["ok"] is True

    serve(place, work)


def test_a_line_without_end_ends_that_client_only(place: Path) -> None:
    async def work(_: ControlServer, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * (3 * control.MAX_LINE))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await writer.drain()
            await reader.readexactly(1)
        assert (await talk(path, b'{"cmd": "sas"}\n'))[0]["ok"] is True

    serve(place, work)


def test_too_many_clients_are_turned_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CLIENTS", 2)

    async def work(_: ControlServer, path: Path) -> None:
        held = [await asyncio.open_unix_connection(path) for _ in range(2)]
        for reader, writer in held:
            writer.write(b'{"cmd": "sas"}\n')
            await reader.readline()
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        writer.close()
        held[0][1].close()
        await held[0][1].wait_closed()
        while True:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"cmd": "sas"}\n')
            line = await reader.readline()
            writer.close()
            if line:
                break
        held[1][1].close()
        assert json.loads(line)["ok"] is True

    serve(place, work)


def test_watchers_get_events_until_they_leave(place: Path) -> None:
    async def work(server: ControlServer, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"id": 7, "cmd": "watch"}\n')
        assert json.loads(await reader.readline())["id"] == 7
        server.publish({"event": "verdict"})
        assert json.loads(await reader.readline()) == {"event": {"event": "verdict"}}
        writer.close()
        await writer.wait_closed()
        await until(lambda: server.watchers == 0)
        server.publish({"event": "unheard"})

    serve(place, work)


def test_a_slow_watcher_misses_the_oldest_and_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_BEHIND", 3)

    async def work(server: ControlServer, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"cmd": "watch"}\n')
        await reader.readline()
        for number in range(10):  # without a break for the server's task
            server.publish({"n": number})
        assert json.loads(await reader.readline()) == {"lost": 7}
        assert [json.loads(await reader.readline())["event"]["n"] for _ in range(3)] == [7, 8, 9]
        writer.close()

    serve(place, work)


def test_the_socket_of_a_dead_daemon_is_replaced(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "c"))
        dead.listen()

    async def work(_: ControlServer, path: Path) -> None:
        assert (await talk(path, b'{"cmd": "sas"}\n'))[0]["ok"] is True

    serve(place, work)


def test_the_socket_of_a_living_daemon_is_not(place: Path) -> None:
    async def work(_: ControlServer, path: Path) -> None:
        with pytest.raises(ConfigError, match=r"gw\.toml: gateway\.control: another gateway answers at"):
            await ControlServer(path, echo, "gw.toml").start()
        assert (await talk(path, b'{"cmd": "sas"}\n'))[0]["ok"] is True

    serve(place, work)


def test_a_file_in_its_place_is_left_alone(place: Path) -> None:
    (place / "c").write_text("precious")
    with pytest.raises(ConfigError, match="is no socket; name another path"):
        asyncio.run(ControlServer(place / "c", echo).start())
    assert (place / "c").read_text() == "precious"


def test_a_directory_that_is_not_there(place: Path) -> None:
    with pytest.raises(ConfigError, match="can't be opened: no such file or directory"):
        asyncio.run(ControlServer(place / "a" / "b" / "c", echo).start())


def test_client_and_server(place: Path) -> None:
    async def work(server: ControlServer, path: Path) -> None:
        answer = await asyncio.to_thread(client.call, path, "up", {"connection": "home"})
        assert answer["data"] == {"args": {"connection": "home"}}
        events = asyncio.create_task(asyncio.to_thread(lambda: next(iter(client.watch(path, 60)))))
        await until(lambda: server.watchers == 1)
        server.publish({"event": "ready"})
        assert await events == {"event": "ready"}

    serve(place, work)


def test_client_without_a_server(place: Path) -> None:
    with pytest.raises(client.ControlError, match="no gateway answers here; start one"):
        client.call(place / "absent", "sas")
    with pytest.raises(client.ControlError, match="name the gateway's socket with --control"):
        client.call(place / ("x" * 200), "sas")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "broke off"),
        ("nonsense\\n", "broke off"),
        ("[]\\n", "no gateway"),
        ("wait", "no answer within 0.2 s"),
    ],
)
def test_client_with_something_else_at_the_other_end(place: Path, answer: str, says: str) -> None:
    script = (
        "import socket,sys,time\n"
        f"s=socket.socket(socket.AF_UNIX); s.bind({str(place / 'c')!r}); s.listen(); print(flush=True)\n"
        "c,_=s.accept(); c.recv(1000)\n"
        + ("sys.stdin.read()\n" if answer == "wait" else f'c.sendall(b"{answer}"); c.close()\n')
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(client.ControlError, match=says):
            client.call(place / "c", "sas", timeout_s=0.2 if answer == "wait" else 60)
        other.kill()
