"""The documentation of the configuration is that of the schema, and the example in it is good."""

from __future__ import annotations

import re
from pathlib import Path

from deadpeer.gateway.config import load
from deadpeer.gateway.reference import SECTIONS, render

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == render(), (
        "run: python -m deadpeer.gateway.reference > docs/configuration.md"
    )


def test_every_key_is_in_it_with_its_meaning() -> None:
    page = render()
    for name, table in SECTIONS:
        section = page[page.index(f"## [{name}]\n") :]
        for key, field in table.model_fields.items():
            if field.examples:
                assert re.search(rf"^\| `{key}` \| .* \| .+ \| `{key} = .+` \|$", section, re.MULTILINE), key
                assert field.description


def test_the_example_is_good(place: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", render(), re.DOTALL)
    assert example is not None
    (place / "gw.toml").write_text(example[1])
    (place / "home.psk").touch(mode=0o600)
    (place / "home.psk").write_text("secret")
    assert load(place / "gw.toml").connections[0].children[0].start_action == "start"
