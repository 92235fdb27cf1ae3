"""A gateway uses its algorithms once before it says that it is ready."""

from __future__ import annotations

from pathlib import Path

from tests.gateway.documents import base_document, write_config
from tests.gateway.processes import two_gateways

from deadpeer.crypto import SystemEntropy
from deadpeer.gateway.config import load
from deadpeer.gateway.warm import warm_up


def test_what_the_configuration_can_ask_for_is_used_while_the_budget_lasts(tmp_path: Path) -> None:
    document = base_document()
    document["connections"]["home"]["proposals"] = "aes256gcm16-prfsha256-x25519"
    document["connections"]["home"]["children"]["net"]["esp_proposals"] = "chacha20poly1305-ecp256"
    connections = load(write_config(tmp_path, document)).connections
    expected = ("prfsha256", "aes256gcm16", "chacha20poly1305", "x25519", "ecp256")
    assert warm_up(connections, SystemEntropy(), budget_s=60.0) == expected
    assert warm_up(connections, SystemEntropy(), budget_s=0.0) == ()


def test_it_is_done_before_the_gateway_is_ready(place: Path) -> None:
    with two_gateways(place, log_level="debug") as pair:
        pair.bob.start()
        kinds = [event["event"] for event in pair.bob.events()]
        assert kinds.index("warmed") < kinds.index("ready")
        assert "x25519" in pair.bob.wait_for("warmed")["algorithms"]
