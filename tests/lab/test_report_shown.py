"""How a report is shown: everything is there, nothing comes from elsewhere, what is text stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from tests.lab.report_sample import NASTY, attacked, measured, report, variant

from deadpeer.lab.report import words
from deadpeer.lab.report.compare import comparison
from deadpeer.lab.report.markdown import render_markdown
from deadpeer.lab.report.model import EARLIER, Reference, Report
from deadpeer.lab.report.page import render_html
from deadpeer.lab.report.plot import points

SECTIONS = (
    "problem",
    "answer",
    "comparison",
    "uses",
    "balanced",
    "plot",
    "ladders",
    "attacks",
    "small",
    "repeat",
    "checks",
)


@pytest.fixture(scope="module")
def sample() -> Report:
    return report()


@pytest.fixture(scope="module")
def page(sample: Report) -> str:
    return render_html(sample)


class Page(HTMLParser):
    """Collects ids, attributes and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                self.references.append(value or "")


def test_the_page_is_well_formed_and_has_every_section(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>\n<html")
    body = ElementTree.fromstring(page.partition("\n")[2])  # noqa: S314 - our own text
    assert [s.get("id") for s in body.iter() if s.tag.endswith("section")] == list(SECTIONS)


def test_the_page_needs_nothing_else(page: str) -> None:
    seen = Page(page)
    assert [one for one in seen.references if not one.startswith("#")] == []
    assert {"script", "link", "img", "iframe", "object", "embed"} & set(seen.tags) == set()
    assert re.search(r"@import|url\(\s*['\"]?(?!#)", page) is None
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names, not places"


def test_links_within_the_page_lead_somewhere_and_ids_are_unique(page: str) -> None:
    seen = Page(page)
    assert {one[1:] for one in seen.references} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))


def test_text_stays_text(page: str, sample: Report) -> None:
    assert NASTY not in page
    assert "&lt;script&gt;alert(" in page
    told = render_markdown(sample)
    assert "<script>" not in told.replace(f"    {sample.environment.command}", "")


def test_the_page_is_a_pure_function_of_the_model(page: str, sample: Report) -> None:
    assert render_html(sample) == page


def test_json_has_everything_and_is_json(sample: Report) -> None:
    record = json.loads(json.dumps(sample.to_record(), allow_nan=False))
    assert record["ok"] is True
    assert len(record["runs"]) == len(sample.runs)
    assert {"variant", "method", "rtt_ms", "detect_ms", "recover_ms", "ike_messages"} <= set(
        record["runs"][0]
    )
    assert record["attacks"][0]["checks"][0]["bound"] == "none"
    assert record["attacks"][0]["amplification"] == 0.025
    assert record["costs"]["roles"][0]["role"] == "token-taker"
    assert record["environment"]["packages"]["Python"] == "CPython 3.11"


def test_markdown_has_the_same_sections_and_whole_tables(sample: Report) -> None:
    text = render_markdown(sample)
    for title in (
        "## The problem",
        "## The comparison",
        "## Four use cases",
        "## Support for load-balancer failover",
        "## Step by step",
        "## Under attack",
        "## For makers of small devices",
        "## Repeat it",
    ):
        assert title in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) > 10
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table


# --- the comparison ---------------------------------------------------------------------------------


def rows(of: Report) -> dict[str, list[tuple[str, str]]]:
    table = comparison(of)
    for section in table.sections:
        assert all(len(row.cells) == len(table.columns) for row in section.rows)
    return {
        row.label: [
            (c.text.replace("\N{NO-BREAK SPACE}", " "), c.note.replace("\N{NO-BREAK SPACE}", " "))
            for c in row.cells
        ]
        for section in table.sections
        for row in section.rows
    }


def test_times_are_medians_with_their_spread_and_the_theory(sample: Report) -> None:
    # Three seeds: 460, 470 and 480 ms at a round trip of 100 ms.
    assert rows(sample)["Recover"][0] == ("4.7 RTT", "470 ms; 460\N{EN DASH}480 ms; theory 4.5")
    assert rows(sample)["Packets lost after Bob was back"][0] == (
        "40",
        "180 with those lost while he was down",
    )
    assert rows(sample)["Packets lost after Bob was back"][2][1] == "idle: none sent"


def test_octets_are_the_sum_of_the_roles_that_a_side_plays(sample: Report) -> None:
    table = rows(sample)
    assert table["Octets in memory per SA, Alice / Bob"][0][0] == "378 / 868"
    assert table["Octets in memory per SA, Alice / Bob"][1][0] == "378 / 977"
    assert table["Octets on disk per SA, Alice / Bob"][1] == ("0 / 47", "once: 0 / 188")
    assert table["CPU per recovery, Alice / Bob, RSA-3072"][0][0] == "1.20 / 1.20 ms"
    assert table["CPU per recovery, Alice / Bob, shared key"][0][0] == "\N{EM DASH}", (
        "not measured is not zero"
    )


def test_every_row_says_how_it_was_measured(sample: Report) -> None:
    assert all(row.how for section in comparison(sample).sections for row in section.rows)


def test_a_run_that_failed_is_not_in_the_median_and_is_named(sample: Report) -> None:
    qcd = variant("qcd")
    bad = report(runs=(measured(qcd), measured(qcd, seed=2, failure="Alice never came to a verdict")))
    assert not bad.ok
    assert rows(bad)["Recover"][0][0] == "4.6 RTT"
    assert rows(bad)["Runs that recovered by this method"][0] == ("1 of 2", "Alice never came to a verdict")
    assert "seed 2: Alice never came to a verdict" in render_html(bad)
    none = report(runs=(measured(qcd, failure="no tunnel"),))
    assert rows(none)["Recover"][0] == ("did not recover", "no tunnel")


def test_only_what_resumed_counts_as_resumed() -> None:
    sir = variant("sir")
    runs = (measured(sir, resume=True), measured(sir, resume=True, seed=2, refused=True))
    assert rows(report(variants=(sir,), runs=runs))["Recover, session resumed"][0] == (
        "4.6 RTT",
        "460 ms; 1 of 2 took a full exchange",
    )
    none = report(variants=(sir,), runs=runs[1:])
    assert rows(none)["Recover, session resumed"][0] == ("\N{EM DASH}", "1 of 1 took a full exchange")


def test_an_attack_that_got_through_is_shown_at_the_top() -> None:
    broken = report(attacks=(attacked(), attacked("forge-token", holds=False, sas_lost=1)))
    assert not broken.ok
    page = render_html(broken)
    assert "Not everything held in this run." in page
    assert page.index("attack forge-token against qcd: living SAs condemned: 1") < page.index('id="problem"')
    assert rows(broken)["Attacks that kept to their bound"][0][0] == "1 of 2"
    assert rows(broken)["Living SAs that attackers made a side drop"][0][0] == "1 off-path, 0 on-path"
    assert "**FAILS: 1**" in render_markdown(broken)


def test_what_could_not_begin_is_a_failure() -> None:
    broken = report(failed=("attack enumerate on qcd: the attacker did not start",))
    assert not broken.ok
    assert words.failures(broken) == broken.failed
    assert broken.to_record()["failed"] == list(broken.failed)


def test_the_commands_that_repeat_a_run_name_its_seed(sample: Report) -> None:
    told = words.commands(sample)
    assert told[1] == "deadpeer lab --method qcd --spi-map --rtt 100 --seed 1"
    assert told[-1] == "deadpeer lab --attack forge-invalid-spi --method qcd --seed 0"


def test_one_attack_on_two_methods_is_told_once(sample: Report) -> None:
    (story,) = words.attack_stories(sample.attacks)
    assert [line.method for line in story.lines] == ["qcd", "sir"]
    assert story.checks[0].measured == (("0", True), ("0", True))


# --- the reference ----------------------------------------------------------------------------------


def test_what_was_measured_before_does_not_pretend_to_be_of_this_run(sample: Report, page: str) -> None:
    assert sample.reference == EARLIER
    assert "was not part of this run: the 174 s were measured on 2026-11-23, earlier" in " ".join(
        page.split()
    )
    assert "measured on 2026-11-23, earlier" in page[page.index('id="plot"') : page.index('id="ladders"')]


def test_what_was_measured_here_says_so() -> None:
    here = render_html(report(reference=Reference(171.5, "2027-01-02", "6.0", here=True)))
    assert "measured in this very run: 172 s" in " ".join(here.split())
    assert "earlier" not in here


# --- parts that are missing -------------------------------------------------------------------------


def test_a_report_of_one_method_without_attacks_and_costs_can_be_shown() -> None:
    sir = variant("sir")
    small = report(
        variants=(sir,), runs=(measured(sir),), attacks=(), costs=None, missing=("strongSwan: needs root",)
    )
    page = render_html(small)
    assert "No attack was part of this run." in page
    assert "costs of each role were not measured" in page
    assert "strongSwan: needs root" in page
    assert "No attack was part of this run." in render_markdown(small)


def test_the_plot_leaves_out_what_has_no_points(sample: Report) -> None:
    assert [rtt for rtt, _ in points(sample, variant("sir"))] == [0.0, 100.0, 300.0]
    alone = report(runs=(measured(variant("qcd")),))
    assert points(alone, variant("sir")) == []
    assert "SIR (CHECK_SPI)" not in render_html(alone).partition('id="plot"')[2].partition("</section>")[0]
