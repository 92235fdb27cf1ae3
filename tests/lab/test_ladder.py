"""The ladder drawn from a recorded recovery."""

from deadpeer.lab.ladder import Step, ladder, render
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, OtherSeen, Seen, Sighting, Way

MS = 1_000_000
READY = 2000


def ike(exchange: int, *, response: bool = False, notifies: tuple[str, ...] = (), about: str = "") -> IkeSeen:
    return IkeSeen(exchange, response, True, 1, "a" * 16, "b" * 16, not notifies, None, notifies, about)


def sighting(way: Way, arrived_ms: float, seen: Seen, *, lost: bool = False) -> Sighting:
    arrived = round((READY + arrived_ms) * MS)
    return Sighting(way, Lane.NAT_T, 100, arrived, None if lost else arrived + 10 * MS, seen)


RIGHT, LEFT = Way.TO_BOB, Way.TO_ALICE
OLD, NEW = EspSeen("000000aa", 5), EspSeen("000000bb", 1)
SIGHTINGS = [
    sighting(RIGHT, -1500, OLD),
    sighting(RIGHT, -1000, OLD),
    sighting(RIGHT, -900, ike(37)),
    sighting(RIGHT, -800, ike(37), lost=True),
    sighting(RIGHT, -5, OLD),
    sighting(RIGHT, 5, OLD),
    sighting(LEFT, 6, ike(37, notifies=("INVALID_SPI",), about="000000aa")),
    sighting(LEFT, 6, OtherSeen("keepalive")),
    sighting(RIGHT, 17, ike(37)),
    sighting(LEFT, 28, ike(37, response=True, notifies=("INVALID_IKE_SPI", "QCD_TOKEN"))),
    sighting(RIGHT, 39, ike(34, notifies=("NAT_DETECTION_SOURCE_IP",))),
    sighting(LEFT, 50, ike(34, response=True, notifies=("NAT_DETECTION_SOURCE_IP",))),
    sighting(RIGHT, 61, ike(35)),
    sighting(LEFT, 72, ike(35, response=True)),
    sighting(RIGHT, 83, NEW),
    sighting(LEFT, 94, NEW),
    sighting(LEFT, 200, NEW),
]
EVENTS = [
    SideEvent("alice", "verdict", (READY + 38) * MS, {"proof": "qcd-token"}),
    SideEvent("alice", "child_up", (READY + 83) * MS, {}),
    SideEvent("alice", "verdict", (READY - 1500) * MS, {"proof": "of an earlier life"}),
    SideEvent("bob", "debug_noise", (READY + 40) * MS, {}),
]


def steps() -> list[Step]:
    return ladder(
        EVENTS,
        SIGHTINGS,
        killed_ns=(READY - 1400) * MS,
        started_ns=(READY - 400) * MS,
        ready_ns=READY * MS,
        end_ns=(READY + 105) * MS,
    )


def test_the_steps_of_a_recovery_by_token() -> None:
    assert [(s.who, s.what, s.count) for s in steps()] == [
        ("bob", "killed (SIGKILL)", 1),
        ("alice>bob", "INFORMATIONAL request", 1),
        ("alice>bob", "INFORMATIONAL request", 1),
        ("bob", "started again", 1),
        ("bob", "can answer again", 1),
        ("alice>bob", "ESP, old SA (000000aa)", 2),
        ("bob>alice", "INVALID_SPI 000000aa", 1),
        ("alice>bob", "INFORMATIONAL request", 1),
        ("bob>alice", "INVALID_IKE_SPI + QCD_TOKEN", 1),
        ("alice", "VERDICT: qcd-token", 1),
        ("alice>bob", "IKE_SA_INIT request", 1),
        ("bob>alice", "IKE_SA_INIT response", 1),
        ("alice>bob", "IKE_AUTH request", 1),
        ("bob>alice", "IKE_AUTH response", 1),
        ("alice", "new child SA up", 1),
        ("alice>bob", "ESP, new SA (000000bb)", 1),
        ("bob>alice", "ESP, new SA (000000bb)", 1),
    ]


def test_a_lost_message_is_told_from_one_that_arrived() -> None:
    lost = [s for s in steps() if s.lost]
    assert [(s.what, s.at_ns) for s in lost] == [("INFORMATIONAL request", (READY - 800) * MS)]
    assert lost[0].to_record(READY * MS) == {
        "t_ms": -800.0,
        "who": "alice>bob",
        "what": "INFORMATIONAL request (lost)",
    }


def test_lines_have_one_width_and_point_the_right_way() -> None:
    lines = [text for text, _ in render(steps(), READY * MS)]
    assert max(map(len, lines)) <= 90
    (token,) = [line for line in lines if "QCD_TOKEN" in line]
    assert "◀" in token
    assert token.strip().startswith("+38.0 ms")
    (init,) = [line for line in lines if "IKE_SA_INIT request" in line]
    assert init.endswith("▶")
    assert any("\N{MULTIPLICATION SIGN}" in line and "INFORMATIONAL" in line for line in lines)
    assert any(line.strip().startswith("-1.400 s") and "killed" in line for line in lines)
