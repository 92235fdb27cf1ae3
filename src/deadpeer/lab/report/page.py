"""The report as one HTML page that needs nothing else: no script, no file, no network. Pure."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from deadpeer.crash.options import CrashOptions
from deadpeer.lab.report import balanced_words, drawing, use_drawing, words
from deadpeer.lab.report.compare import comparison
from deadpeer.lab.report.model import Report
from deadpeer.lab.report.plot import plot_svg
from deadpeer.lab.report.progress import clock_text
from deadpeer.lab.report.small import small
from deadpeer.lab.report.use_words import USE_COLUMNS, UseStory, use_stories

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
        uses=[(story, _use_pictures(story)) for story in use_stories(report)],
        use_columns=USE_COLUMNS,
        balanced={
            "columns": balanced_words.titles(report),
            "rows": balanced_words.rows(report),
            "says": balanced_words.sentences(report),
        },
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
            "theft": _picture(use_drawing.theft_svg()),
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


def _use_pictures(story: UseStory) -> dict[str, Markup]:
    strips = use_drawing.strips_svg(story.title, story.zero, story.lines) if story.lines else ""
    return {"place": _picture(use_drawing.use_svg(story.use)), "strips": _picture(strips)}


def _picture(svg: str) -> Markup:
    """SVG that we drew, its text escaped where it was put in."""
    return Markup(svg)  # noqa: S704
