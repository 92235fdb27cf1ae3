"""Recovery time against round trip time, every method, on a logarithmic scale. Needs matplotlib; pure."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from deadpeer.lab.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from deadpeer.lab.report.model import Report, Spread, spread
from deadpeer.lab.report.variants import Variant

STYLES: dict[str, tuple[str, str, str]] = {
    "qcd": (BLUE, "o", "-"),
    "qcd-map": (SKY, "s", "-"),
    "qcd-announced": (BLUE, "^", ":"),
    "sir": (GREEN, "D", "-"),
    "reconnect": (PURPLE, "v", "-"),
    "reconnect-mute": (PURPLE, "P", "--"),
    "liveness": (ORANGE, "X", "-"),
    "strongswan": (BLACK, "*", "--"),
}
"""Colour, marker and line of each variant: no two differ by colour alone."""

RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deadpeer",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def points(report: Report, variant: Variant) -> list[tuple[float, Spread]]:
    """(round trip time in ms, recovery in ms) of a variant's runs without resumption, by round trip time."""
    found = [
        (rtt, spread(report.of(variant, resume=False, rtt_ms=rtt), lambda m: m.result.recover_ms))
        for rtt in report.rtts_ms
    ]
    return [(rtt, value) for rtt, value in found if value is not None]


def plot_svg(report: Report) -> str:
    """The plot as an SVG element without a prolog."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.add_subplot()
        for variant in report.variants:
            _line(axes, report, variant)
        _reference(axes, report)
        _dress(axes, report)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _bare(out.getvalue())


def _line(axes: Axes, report: Report, variant: Variant) -> None:
    found = points(report, variant)
    if not found:
        return
    colour, marker, line = STYLES[variant.key]
    middle = [value.median for _, value in found]
    below = [value.median - value.least for _, value in found]
    above = [value.greatest - value.median for _, value in found]
    axes.errorbar(
        [rtt for rtt, _ in found],
        middle,
        yerr=[below, above],
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=7,
        linewidth=1.8,
        capsize=2.5,
        elinewidth=1,
        label=variant.title,
    )


def _reference(axes: Axes, report: Report) -> None:
    reference = report.reference
    where = "" if reference.here else f" on {reference.measured}, earlier"
    text = f"strongSwan on both sides, default timers: {reference.recover_s:.0f} s, measured{where}"
    axes.axhline(1000 * reference.recover_s, color=VERMILION, linewidth=2, linestyle=(0, (6, 2)))
    axes.annotate(
        text,
        (0.01, 1000 * reference.recover_s),
        xycoords=("axes fraction", "data"),
        xytext=(0, 6),
        textcoords="offset points",
        color="#a63d00",
        fontweight="bold",
    )


def _dress(axes: Axes, report: Report) -> None:
    axes.set_yscale("log")
    axes.set_ylim(top=600_000)
    axes.set_xlim(-6, max([*report.rtts_ms, 1.0]) * 1.02 + 4)
    axes.set_xticks(list(report.rtts_ms))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("round trip time of the link, ms")
    axes.set_ylabel("from Bob's return until traffic flows again")
    axes.grid(visible=True, which="major", color="#d5dade", linewidth=0.8)
    axes.grid(visible=True, which="minor", axis="y", color="#eceff1", linewidth=0.5)
    axes.tick_params(colors=BLACK, which="both")
    axes.spines[["left", "bottom"]].set_color(GREY)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=10.5)


def _tick(ms: float, _: object) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _bare(text: str) -> str:
    """Without prolog, document type and metadata; as wide as its place."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(
        r'<svg ([^>]*?)\bwidth="[^"]*"([^>]*)>',
        lambda m: "<svg " + re.sub(r'\bheight="[^"]*" ', "", m[1]) + m[2].strip() + ' role="img">',
        text,
        count=1,
    )
