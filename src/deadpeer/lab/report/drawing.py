"""The pictures that are drawn by hand, as SVG text: the black hole, bars of time, ladders. Pure.

Every colour is of the palette of Okabe and Ito, which colour-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from deadpeer.lab.report.model import Rung
from deadpeer.lab.report.notation import duration

BLACK, ORANGE, SKY, GREEN = "#1a1a1a", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, PALE = "#5f6b76", "#e8ecef"
WHITE, DEAD = "#ffffff", "#f1f2f4"
GREEN_TEXT, RED_TEXT = "#00694d", "#a63d00"
"""Dark enough to read on white."""

FONT = "font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\""
TONES = {"plain": BLACK, "good": GREEN_TEXT, "bad": RED_TEXT}

LADDER_WIDTH = 760
ALICE_X, BOB_X = 108, 722
ROW, SLANT = 27, 8


def svg(width: int, height: int, title: str, body: Iterable[str]) -> str:
    """A picture that scales to the width of its place, with a title for those who can't see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" {FONT}><title>{escape(title)}</title>{"".join(body)}</svg>'
    )


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A box with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{WHITE}"'
        f' stroke="{colour}" stroke-width="2.5"/>'
    )


def write(
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = BLACK,
    anchor: str = "middle",
    *,
    bold: bool = False,
) -> str:
    """A line of text; `anchor` as SVG has it: start, middle, end."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(text)}</text>"
    )


def ladder_svg(title: str, rungs: Sequence[Rung]) -> str:
    """The messages of a recovery between the lifelines of Alice and Bob, one step a row."""
    height = 44 + ROW * len(rungs) + 16
    body = [*_lifelines(rungs, height)]
    killed, back = _row_of(rungs, "killed"), _row_of(rungs, "can answer")
    for row, rung in enumerate(rungs):
        y = _row_y(row)
        ground = DEAD if killed is not None and back is not None and killed < row < back else WHITE
        body.append(write(ALICE_X - 16, y + 4, _clock(rung.t_ms), 11.5, GREY, "end"))
        body.append(_event(rung, y) if rung.who in ("alice", "bob") else _arrow(rung, y, ground))
    return svg(LADDER_WIDTH, height, title, body)


def black_hole_svg() -> str:
    """Alice sends, Bob has lost the SA, and nobody says so."""
    dots = [
        f'<rect x="{x}" y="83" width="26" height="14" rx="3" fill="{BLUE}" opacity="{1 - n * 0.085:.2f}"/>'
        for n, x in enumerate(range(258, 690, 48))
    ]
    body = [
        box(20, 44, 210, 92, BLUE),
        write(125, 72, "Alice", 17, BLACK, "middle", bold=True),
        write(
            125, 94, "her tunnel says \N{LEFT DOUBLE QUOTATION MARK}up\N{RIGHT DOUBLE QUOTATION MARK}", 13.5
        ),
        write(125, 114, "she holds the old keys", 13.5),
        *dots,
        write(470, 68, "encrypted packets, one every 10 ms", 13.5, GREY),
        write(470, 122, "no answer, no error", 13.5, GREY),
        f'<circle cx="746" cy="90" r="37" fill="{BLACK}"/>',
        f'<circle cx="746" cy="90" r="44" fill="none" stroke="{BLACK}" stroke-width="1.5"'
        ' stroke-dasharray="3 5"/>',
        write(746, 94, "dropped", 12, "#ffffff", "middle"),
        box(800, 44, 180, 92, VERMILION),
        write(890, 72, "Bob", 17, BLACK, "middle", bold=True),
        write(890, 94, "crashed and restarted:", 13.5),
        write(890, 114, "no SA, no keys", 13.5),
    ]
    return svg(1000, 160, "Alice sends into a black hole: Bob has restarted and lost every SA", body)


def bars_svg(title: str, bars: Sequence[tuple[str, float, str]], ticks_s: Sequence[float]) -> str:
    """Times on a linear scale: (name, milliseconds, colour) from top to bottom; `ticks_s` are seconds."""
    left, right, step = 300, 880, 30
    longest = max([ms for _, ms, _ in bars] + [1000 * tick for tick in ticks_s] + [1.0])
    scale = (right - left) / longest
    bottom = 14 + step * len(bars)
    body = []
    for tick in ticks_s:
        x = left + 1000 * tick * scale
        body.append(f'<line x1="{x:.1f}" y1="8" x2="{x:.1f}" y2="{bottom}" stroke="{PALE}"/>')
        body.append(write(x, bottom + 18, f"{tick:g} s", 12.5, GREY))
    for row, (name, ms, colour) in enumerate(bars):
        y = 14 + step * row
        width = max(2.0, ms * scale)
        body.append(write(left - 12, y + 15, name, 14, BLACK, "end"))
        body.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="20" fill="{colour}"/>')
        body.append(write(left + width + 8, y + 15, duration(ms), 14, BLACK, "start", bold=True))
    return svg(1000, bottom + 30, title, body)


def _row_y(row: int) -> int:
    return 58 + ROW * row


def _lifelines(rungs: Sequence[Rung], height: int) -> list[str]:
    """Alice's is whole; Bob's is broken from his death until he can answer."""
    killed = _row_of(rungs, "killed")
    back = _row_of(rungs, "can answer")
    top, bottom = 36, height - 8
    dead_from = top if killed is None else _row_y(killed)
    dead_to = dead_from if back is None else _row_y(back)
    return [
        f'<rect x="{ALICE_X}" y="{dead_from}" width="{BOB_X - ALICE_X}" height="{dead_to - dead_from}" '
        f'fill="{DEAD}"/>',
        write(ALICE_X, 22, "Alice", 14, BLACK, "middle", bold=True),
        write(BOB_X, 22, "Bob", 14, BLACK, "middle", bold=True),
        f'<line x1="{ALICE_X}" y1="{top}" x2="{ALICE_X}" y2="{bottom}" stroke="{BLACK}" stroke-width="2"/>',
        f'<line x1="{BOB_X}" y1="{dead_to}" x2="{BOB_X}" y2="{bottom}" stroke="{BLACK}" stroke-width="2"/>',
        f'<line x1="{BOB_X}" y1="{top}" x2="{BOB_X}" y2="{dead_from}" stroke="{BLACK}" stroke-width="2"/>',
        f'<line x1="{BOB_X}" y1="{dead_from}" x2="{BOB_X}" y2="{dead_to}" stroke="{VERMILION}" '
        'stroke-width="2" stroke-dasharray="3 5"/>',
    ]


def _row_of(rungs: Sequence[Rung], begins: str) -> int | None:
    return next((n for n, r in enumerate(rungs) if r.who == "bob" and r.what.startswith(begins)), None)


def _event(rung: Rung, y: int) -> str:
    colour = TONES[rung.tone]
    x, side, anchor = (ALICE_X, 1, "start") if rung.who == "alice" else (BOB_X, -1, "end")
    dot = f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"/>'
    return dot + write(x + side * 12, y + 4, _what(rung), 13, colour, anchor, bold=rung.tone != "plain")


def _arrow(rung: Rung, y: int, ground: str) -> str:
    """From the sender down to the receiver; a lost message ends in a cross on the way."""
    colour = TONES[rung.tone] if not rung.lost else RED_TEXT
    start, end = (ALICE_X, BOB_X) if rung.who == "alice>bob" else (BOB_X, ALICE_X)
    way = 1 if end > start else -1
    y1, y2 = y - SLANT / 2, y + SLANT / 2
    if rung.lost:
        end, y2 = round(start + 0.8 * (end - start)), y1 + 0.8 * SLANT
        head = f'<path d="M{end - 5},{y2 - 5} l10,10 m-10,0 l10,-10" stroke="{colour}" stroke-width="2"/>'
    else:
        end -= 2 * way
        head = f'<path d="M{end},{y2} l{-10 * way},-5 v9 z" fill="{colour}"/>'
    line = (
        f'<line x1="{start}" y1="{y1}" x2="{end}" y2="{y2}" stroke="{colour}" stroke-width="1.5"'
        f"{_dashes(rung)}/>"
    )
    label = _what(rung)
    middle = (ALICE_X + BOB_X) / 2
    width = sum(9.2 if letter.isupper() or letter == "_" else 7.4 for letter in label) + 14
    back = f'<rect x="{middle - width / 2:.1f}" y="{y - 9}" width="{width:.1f}" height="18" fill="{ground}"/>'
    return line + head + back + write(middle, y + 4.5, label, 13, colour, bold=rung.tone == "good")


def _dashes(rung: Rung) -> str:
    """ESP is not IKE, and a reader sees it at once."""
    return ' stroke-dasharray="7 4"' if rung.what.startswith("ESP") else ""


def _what(rung: Rung) -> str:
    times = f" \N{MULTIPLICATION SIGN}{rung.count}" if rung.count > 1 else ""
    return rung.what + times + (" (lost)" if rung.lost else "")


def _clock(t_ms: float) -> str:
    return ("+" if t_ms >= 0 else "") + duration(t_ms)
