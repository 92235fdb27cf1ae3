"""What tshark, an independent parser, makes of datagrams of ours, decrypted through our key log."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.pcap import write_pcap

from deadpeer.ike.io import KeyLog
from deadpeer.values import Datagram

_PREFERENCES = ("esp.enable_encryption_decode:TRUE", "esp.enable_authentication_check:TRUE")
_CHECKSUMS = ("udp.check_checksum:TRUE", "ip.check_checksum:TRUE")


@dataclass(frozen=True)
class Frame:
    """One packet as tshark sees it.

    `layers` are protocol names from the outside in. `exchange`, `response`, `payloads` and `notifies` are
    numbers of the IKE message, decrypted payloads included. `marks` is all that tshark complains about.
    `verified` counts the integrity checks that it made with the keys and found right.
    """

    number: int
    layers: tuple[str, ...]
    exchange: int | None
    response: bool
    payloads: tuple[int, ...]
    notifies: tuple[int, ...]
    marks: tuple[str, ...]
    verified: int


def dissect(directory: Path, packets: Iterable[tuple[int, Datagram]], keys: Iterable[KeyLog]) -> list[Frame]:
    """Dissect datagrams (each with its time in ns) with the lines of our key log; files go to `directory`."""
    capture = directory / "capture.pcap"
    write_pcap(capture, packets)
    profile = directory / "profile"
    profile.mkdir(exist_ok=True)
    lines = list(keys)
    for table in ("ikev2_decryption_table", "esp_sa"):
        # Both sides log the same keys.
        own = dict.fromkeys(entry.line for entry in lines if entry.table == table)
        (profile / table).write_text("".join(f"{line}\n" for line in own))
    return read_capture(capture, profile, _PREFERENCES + _CHECKSUMS)


def read_capture(capture: Path, profile: Path, preferences: Iterable[str] = _PREFERENCES) -> list[Frame]:
    """Dissect a capture file with the tables in the directory `profile`. Fails if tshark refuses a table.

    Checksums of UDP are not looked at in a capture of a real link: the device would have filled them in.
    """
    options = [word for preference in preferences for word in ("-o", preference)]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(capture), "-T", "pdml", *options],
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(profile)},
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if line and "Running as user" not in line]
    assert not complaints, complaints
    # Our own capture and tshark's own output: nothing here is from a stranger.
    return [_frame(packet) for packet in ET.fromstring(done.stdout).iter("packet")]  # noqa: S314


def _frame(packet: ET.Element) -> Frame:
    fields: dict[str, list[ET.Element]] = {}
    for element in packet.iter():
        fields.setdefault(element.get("name", ""), []).append(element)

    def shown(name: str) -> list[str]:
        return [element.get("show", "") for element in fields.get(name, [])]

    checks = [e.get("showname", "") for name in ("isakmp.enc.icd", "esp.icv") for e in fields.get(name, [])]
    marks = shown("_ws.expert.message")
    marks += [element.get("showname", "malformed") for element in fields.get("_ws.malformed", [])]
    everything = [element.get("showname", "") for elements in fields.values() for element in elements]
    marks += [text for text in everything if "[incorrect" in text]
    exchanges = shown("isakmp.exchangetype")
    return Frame(
        number=int(shown("num")[0]),
        layers=tuple(shown("frame.protocols")[0].split(":")),
        exchange=int(exchanges[0]) if exchanges else None,
        response=shown("isakmp.flag_r") == ["1"],
        # Below 33 are the parts of an SA payload, which tshark shows under the same name.
        payloads=tuple(n for n in map(int, shown("isakmp.typepayload")) if n >= 33),
        notifies=tuple(map(int, shown("isakmp.notify.msgtype"))),
        marks=tuple(marks),
        verified=sum("[correct]" in text for text in checks),
    )
