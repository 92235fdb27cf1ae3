"""The report as one HTML page that needs nothing else: no script, no file, no network. Pure."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from deadpeer.crash.options import CrashOptions
from deadpeer.lab.report import drawing, words
from deadpeer.lab.report.compare import comparison
from deadpeer.lab.report.model import Report
from deadpeer.lab.report.plot import plot_svg
from deadpeer.lab.report.progress import clock_text
from deadpeer.lab.report.small import small

TICKS_S = (0, 30, 60, 90, 120, 150)


def render_html(report: Report) -> str:
    """The page, HTML that is well-formed XML too."""
    folder = files("deadpeer.lab.report") / "templates"
    environment = Environment(
        loader=DictLoader({"report": (folder / "report.html.j2").read_text()}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template("report").render(
        report=report,
        environment=report.environment,
        # A style sheet of ours, without anything of the report in it.
        style=Markup((folder / "style.css").read_text()),  # noqa: S704
        problem=words.problem(report),
        answer=words.answer(report),
        tiles=words.tiles(report),
        table=comparison(report),
        ladders=[
            {
                "title": one.title,
                "says": one.says,
                "picture": _picture(drawing.ladder_svg(one.title, one.rungs)),
            }
            for one in words.ladders(report)
        ],
        pictures={
            "black_hole": _picture(drawing.black_hole_svg()),
            "bars": _picture(drawing.bars_svg("Time until traffic flows again", words.bars(report), TICKS_S)),
            "plot": _picture(plot_svg(report)),
        },
        stories=words.attack_stories(report.attacks),
        held=sum(result.ok for result in report.attacks),
        small=None if report.costs is None else small(report.costs),
        rebuilds=f"{CrashOptions().rebuilds_per_hour:g}",
        failures=words.failures(report),
        reference_note=words.reference_note(report),
        commands=words.commands(report),
        rtt=f"{report.rtt_ms:g}",
        down=f"{report.down_s:g}",
        rtts=", ".join(f"{rtt:g}" for rtt in report.rtts_ms),
        took=f"{clock_text(report.environment.took_s)} minutes",
    )


def _picture(svg: str) -> Markup:
    """SVG that we drew, its text escaped where it was put in."""
    return Markup(svg)  # noqa: S704
