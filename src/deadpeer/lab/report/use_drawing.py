"""Pictures of the use cases, as SVG text: who stands where, what became of the packets, the theft. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deadpeer.lab.report.cases import Fate, Strip, Use
from deadpeer.lab.report.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREEN_TEXT,
    GREY,
    ORANGE,
    PALE,
    RED_TEXT,
    SKY,
    VERMILION,
    WHITE,
    box,
    svg,
    write,
)
from deadpeer.lab.report.notation import duration

WIDTH = 1000
LEFT, RIGHT, ROW = 300, 880, 34
FATES: dict[Fate, tuple[str, float, str]] = {
    "answered": (SKY, 18, "answered"),
    "late": (ORANGE, 12, "answered late: it waited for the new SA"),
    "lost": (VERMILION, 6, "lost"),
}
"""Colour, height and meaning: told apart without colour too."""
STEPS_MS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True, slots=True)
class Line:
    """A strip, and what is written on its left and its right."""

    label: str
    strip: Strip
    note: str


def strips_svg(title: str, zero: str, lines: Sequence[Line]) -> str:
    """What became of the packets, one line for each try, on one linear scale; `zero` names the moment from
    which times count."""
    edges = [edge for line in lines for s in line.strip.stretches for edge in (s.from_ms, s.to_ms)]
    low, high = min(edges, default=0.0), max(edges, default=1.0)
    scale = (RIGHT - LEFT) / max(high - low, 1.0)

    def x(ms: float) -> float:
        return LEFT + (ms - low) * scale

    bottom = 34 + ROW * len(lines)
    body = []
    step = next((step for step in STEPS_MS if (high - low) / step <= 9), STEPS_MS[-1])
    for tick in range(int(low // step) + 1, int(high // step) + 1):
        at = x(tick * step)
        body.append(f'<line x1="{at:.1f}" y1="30" x2="{at:.1f}" y2="{bottom}" stroke="{PALE}"/>')
        body.append(write(round(at, 1), bottom + 16, duration(tick * step) if tick else "0", 12, GREY))
    for row, line in enumerate(lines):
        body += _line(line, 36 + ROW * row, x)
    at = x(0.0)
    body.append(
        f'<line x1="{at:.1f}" y1="24" x2="{at:.1f}" y2="{bottom}" stroke="{BLACK}" stroke-width="1.5"/>'
    )
    body.append(write(round(at, 1), 18, zero, 13, BLACK, "middle" if at > LEFT + 120 else "start", bold=True))
    return svg(WIDTH, bottom + 52, title, [*body, *_legend(bottom + 38)])


def _line(line: Line, y: int, x: Callable[[float], float]) -> list[str]:
    """One strip; a diamond where the client knew, a triangle where traffic flowed again."""
    body = [write(LEFT - 12, y + 14, line.label, 13.5, BLACK, "end")]
    for stretch in line.strip.stretches:
        colour, height, _ = FATES[stretch.fate]
        left, width = x(stretch.from_ms), x(stretch.to_ms) - x(stretch.from_ms)
        body.append(
            f'<rect x="{left:.1f}" y="{y + 9 - height / 2:g}" width="{max(width, 0.8):.1f}"'
            f' height="{height:g}" fill="{colour}"/>'
        )
    if line.strip.knows_ms is not None:
        body.append(_diamond(x(line.strip.knows_ms), y + 9))
    if line.strip.flows_ms is not None:
        body.append(_flag(x(line.strip.flows_ms), y + 9))
    body.append(write(RIGHT + 12, y + 14, line.note, 13, BLACK, "start"))
    return body


def _legend(y: int) -> list[str]:
    body, at = [], 20
    for colour, height, text in FATES.values():
        body.append(
            f'<rect x="{at}" y="{y - height / 2:g}" width="26" height="{height:g}" fill="{colour}"/>'
            + write(at + 33, y + 4.5, text, 12.5, GREY, "start")
        )
        at += 60 + 7 * len(text)
    body.append(
        _diamond(at + 8, y) + write(at + 20, y + 4.5, "the client holds the proof", 12.5, GREY, "start")
    )
    at += 210
    body.append(
        _flag(at + 8, y) + write(at + 22, y + 4.5, "first round trip after that", 12.5, GREY, "start")
    )
    return body


def _diamond(x: float, y: float) -> str:
    return (
        f'<path d="M{x:.1f},{y - 8:g} l6,8 l-6,8 l-6,-8 z" fill="{BLACK}" stroke="{WHITE}"'
        ' stroke-width="1.2"/>'
    )


def _flag(x: float, y: float) -> str:
    return (
        f'<path d="M{x - 6:.1f},{y - 8:g} l14,8 l-14,8 z" fill="{GREEN_TEXT}" stroke="{WHITE}"'
        ' stroke-width="1.2"/>'
    )


# --- who stands where --------------------------------------------------------------------------------


def use_svg(use: Use) -> str:
    """Who stands where in a use case, and what happens."""
    return {"robustness": _robustness, "reboot": _reboot, "failover": _failover, "cluster": _cluster}[use]()


def _robustness() -> str:
    body = [
        *_end(20, "Alice", "holds the SAs", BLUE),
        _tunnel(230, 650),
        *_end(650, "Bob", "his process lives,", VERMILION, "his SAs are gone"),
        *_cross(905, 66),
    ]
    return svg(WIDTH, 132, "Robustness: Bob lives, and has lost SAs without a word", body)


def _reboot() -> str:
    body = [
        *_end(20, "Alice", "holds the SAs", BLUE),
        _tunnel(230, 650),
        *_end(650, "Bob", "killed, and started again:", VERMILION, "memory empty, disk intact"),
        write(905, 74, "\N{CLOCKWISE OPEN CIRCLE ARROW}", 34, RED_TEXT),
    ]
    return svg(WIDTH, 132, "Reboot: Bob dies and starts again", body)


def _failover() -> str:
    body = [
        *_end(20, "clients", "hold the SAs", BLUE),
        _tunnel(230, 400),
        box(400, 46, 130, 40, GREY),
        write(465, 71, "one address", 14),
        _dashes(530, 62, 650, 32),
        _arrow(530, 70, 650, 104, GREEN),
        *_gateway(650, 6, "gateway 0", "was active, is dead", VERMILION),
        *_cross(905, 31),
        *_gateway(650, 78, "gateway 1", "the same keys, no SA", GREEN),
    ]
    return svg(
        WIDTH, 136, "Hot-standby failover: the active gateway dies, another one gets its address", body
    )


def _cluster() -> str:
    body = [
        *_end(20, "clients", "hold the SAs", BLUE),
        _tunnel(230, 350),
        box(350, 46, 110, 40, GREY),
        write(405, 71, "balancer", 14),
        _dashes(460, 60, 560, 26),
        _arrow(460, 66, 560, 70, GREEN),
        _arrow(460, 72, 560, 116, GREEN),
        *_gateway(560, 4, "member 0", "dead", VERMILION, 150, 40),
        *_cross(733, 24),
        *_gateway(560, 52, "member 1", "its own SAs", GREEN, 150, 40),
        *_gateway(560, 100, "member 2", "its own SAs", GREEN, 150, 40),
        *_gateway(790, 40, "etcd", "who is a member, who is over", GREY, 200, 56),
        _dashes(710, 72, 790, 66),
        _dashes(710, 118, 790, 84),
    ]
    return svg(WIDTH, 146, "Load-balanced cluster: one of several members dies", body)


def theft_svg() -> str:
    """How a token is bought at a gateway that does not know the SA, and what ownership changes."""
    body = [
        *_panel(0, "Each gateway decides by its own table", owned=False),
        f'<line x1="500" y1="8" x2="500" y2="290" stroke="{PALE}" stroke-width="2"/>',
        *_panel(505, "Each gateway reads from the SPI whose it is", owned=True),
    ]
    return svg(
        WIDTH, 300, "A thief buys the token of a living SA at another gateway; with ownership he can't", body
    )


def _panel(x: int, title: str, *, owned: bool) -> list[str]:
    body = [
        write(x + 245, 22, title, 15, BLACK, bold=True),
        box(x + 12, 60, 130, 64, BLUE),
        write(x + 77, 88, "client", 15, BLACK, bold=True),
        write(x + 77, 108, "SA with A", 12.5),
        box(x + 350, 60, 130, 64, GREEN),
        write(x + 415, 88, "gateway A", 15, BLACK, bold=True),
        write(x + 415, 108, "lives, has the SA", 12.5),
        _arrow(x + 142, 92, x + 350, 92, GREEN),
        write(x + 246, 84, "living SA", 12.5, GREEN_TEXT),
        box(x + 350, 196, 130, 64, GREY),
        write(x + 415, 224, "gateway B", 15, BLACK, bold=True),
        write(x + 415, 244, "has another table", 12.5),
        box(x + 12, 196, 130, 64, VERMILION),
        write(x + 77, 224, "thief", 15, BLACK, bold=True),
        write(x + 77, 244, "knows the SPIs", 12.5),
        _arrow(x + 142, 214, x + 350, 214, VERMILION),
        write(x + 246, 206, "1. I use this SA", 12.5, RED_TEXT),
    ]
    if owned:
        return [
            *body,
            write(x + 246, 280, "2. silence: the SPI is A's, and A's life has not", 12.5, GREEN_TEXT),
            write(x + 246, 297, "ended; or the packet is handed on to A", 12.5, GREEN_TEXT),
            write(x + 77, 166, "nothing to present", 12.5, GREEN_TEXT),
        ]
    return [
        *body,
        _arrow(x + 350, 244, x + 142, 244, VERMILION),
        write(x + 246, 280, "2. I do not know it; here is its token", 12.5, RED_TEXT),
        _arrow(x + 77, 196, x + 77, 124, VERMILION),
        write(x + 86, 150, "3. presents the token,", 12.5, RED_TEXT, "start"),
        write(x + 86, 166, "as if from the gateway", 12.5, RED_TEXT, "start"),
        write(x + 77, 50, "4. drops the living SA", 12.5, RED_TEXT),
    ]


def _end(x: int, name: str, says: str, colour: str, more: str = "") -> list[str]:
    return [
        box(x, 20, 210, 92, colour),
        write(x + 105, 50, name, 17, BLACK, bold=True),
        write(x + 105, 74, says, 13.5),
        write(x + 105, 94, more, 13.5),
    ]


def _gateway(
    x: int, y: int, name: str, says: str, colour: str, width: int = 220, height: int = 50
) -> list[str]:
    middle = x + width / 2
    return [
        box(x, y, width, height, colour),
        write(middle, y + height / 2 - 3, name, 14, BLACK, bold=True),
        write(middle, y + height / 2 + 14, says, 12.5),
    ]


def _tunnel(x1: int, x2: int) -> str:
    return (
        f'<rect x="{x1 + 6}" y="56" width="{x2 - x1 - 12}" height="20" rx="10" fill="{PALE}"/>'
        f'<rect x="{x1 + 6}" y="63" width="{x2 - x1 - 12}" height="6" fill="{SKY}"/>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    foot_x, foot_y = x2 - 11 * dx, y2 - 11 * dy
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{foot_x:.1f}" y2="{foot_y:.1f}" stroke="{colour}"'
        ' stroke-width="2"/>'
        f'<path d="M{x2:g},{y2:g} L{foot_x - 5 * dy:.1f},{foot_y + 5 * dx:.1f} L{foot_x + 5 * dy:.1f},'
        f'{foot_y - 5 * dx:.1f} z" fill="{colour}"/>'
    )


def _dashes(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{GREY}" stroke-width="1.5"'
        ' stroke-dasharray="4 5"/>'
    )


def _cross(x: int, y: int) -> list[str]:
    return [
        f'<path d="M{x - 13},{y - 13} l26,26 m-26,0 l26,-26" stroke="{RED_TEXT}" stroke-width="5"'
        ' fill="none"/>'
    ]
