"""The octets and numbers in docs/crash-discovery.md are those of the code, and what its text alone leads to.

Each of the document's blocks "vector NAME" has inputs (`name = value`) and results (`=> name = value`). Every
block is computed twice: by the code, and by a second implementation that follows the document and uses
nothing of ours. `python -m tests.crash.test_spec_vectors` from the root of the repository, with `src` and the
root in PYTHONPATH, writes the results into the document anew.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from deadpeer.cluster.spi import SpiCodec
from deadpeer.crash import lost_children, monitor, policy, rebuilds, sir, sir_wire, strangers
from deadpeer.crash.options import CrashOptions, ResumptionOptions
from deadpeer.crash.sir_judgement import WINDOW_FLOOR_S, WINDOW_RTTS, Action, News, Phase, Step, judge
from deadpeer.crash.sir_wire import CHECK_SPI, TICK_NS, Check, CookieMint, Subject, Verb
from deadpeer.crash.spi_map import dead_message
from deadpeer.crash.spi_records import SpiRecord
from deadpeer.crash.tokens import MakerRole, make_token, token_notify
from deadpeer.crypto import IkeSuite, derive_ike_keys, prf, resumption_skeyseed, signed_octets
from deadpeer.crypto.suites import ENCRYPTION_BY_WIRE, GROUP_BY_ID, PRF_BY_ID
from deadpeer.ike import attempts, refusals, repeats, rtt
from deadpeer.ike.connection import Connection, EndpointConfig
from deadpeer.ike.exchanges import resume
from deadpeer.values import Address
from deadpeer.wire import ExchangeType, Message, Nonce, Notify, NotifyType, decode_message, encode_message

DOCUMENT = Path(__file__).parents[2] / "docs" / "crash-discovery.md"
BLOCK = re.compile(r"^```vector (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

Values = Mapping[str, str]
Results = dict[str, str]


def blocks(text: str) -> dict[str, tuple[Values, Values]]:
    """(inputs, results) of each block, by name. Long values go on in lines that are indented."""
    found: dict[str, tuple[Values, Values]] = {}
    for name, body in BLOCK.findall(text):
        inputs: Results = {}
        results: Results = {}
        for line in re.sub(r"\n +", "", body).splitlines():
            key, value = line.removeprefix("=> ").split(" = ", 1)
            (results if line.startswith("=> ") else inputs)[key.strip()] = value.strip()
        assert name not in found, name
        found[name] = inputs, results
    return found


VECTORS = blocks(DOCUMENT.read_text())


# --- by the code -------------------------------------------------------------------------------------


def h(values: Values, name: str) -> bytes:
    return bytes.fromhex(values[name])


def token(v: Values) -> Results:
    role = MakerRole(h(v, "role")[0])
    return {"token": make_token(h(v, "secret"), role, h(v, "SPIi"), h(v, "SPIr"), v.get("taker")).hex()}


def spi(v: Values) -> Results:
    codec = SpiCodec(h(v, "key"))
    return {"SPI": codec.encode(int(v["epoch"]), int(v["member"]), int(v["random"], 16)).hex()}


def spi_check(v: Values) -> Results:
    origin = SpiCodec(h(v, "key")).decode(h(v, "SPI"))
    return {"origin": "none" if origin is None else f"epoch {origin.epoch}, member {origin.member}"}


def tokens_of(v: Values) -> list[bytes]:
    return [bytes.fromhex(each) for each in v.get("tokens", "").split()]


def invalid_ike_spi(v: Values) -> Results:
    flags = h(v, "flags of the request")[0]
    message = Message(
        h(v, "SPIi"),
        h(v, "SPIr"),
        int(v["exchange type"]),
        int(v["message ID"]),
        from_initiator=not flags & 0x08,
        is_response=True,
        payloads=(Notify(NotifyType.INVALID_IKE_SPI), *map(token_notify, tokens_of(v))),
    )
    return {"message": encode_message(message).hex()}


def invalid_spi(v: Values) -> Results:
    """Also of announcements: the two are the same octets."""
    somewhere = Address("192.0.2.1", 4500)
    record = SpiRecord(
        MakerRole.RESPONDER, "spi", h(v, "SPIi"), h(v, "SPIr"), 1, b"\0\0", somewhere, somewhere
    )
    return {"message": encode_message(dead_message(int(v["ESP SPI"], 16), record, tokens_of(v))).hex()}


def vendor_id(v: Values) -> Results:
    return {"Vendor ID": sir_wire.VENDOR_ID.hex()}


class _Fixed:
    """Entropy that is one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def octets(self, count: int) -> bytes:
        assert count == len(self._secret)
        return self._secret


def cookie(v: Values) -> Results:
    at_ns = int(v["time"]) * TICK_NS
    mint = CookieMint(at_ns, _Fixed(h(v, "secret")))
    subject = Subject(int(v["protocol"]), h(v, "SPI"))
    bob = Address(v["address"], int(v["port"]))
    made = mint.make(at_ns, subject, bob)
    assert mint.made_ns(at_ns + TICK_NS, made, subject, bob) == at_ns
    assert v["generation"] == "0"
    return {"cookie": made.hex()}


def check(v: Values) -> Results:
    subject = Subject(int(v["protocol"]), h(v, "SPI"))
    verb = Verb[v["verb"]]
    initiator = bool(h(v, "flags")[0] & 0x08)
    message = encode_message(sir_wire.encode(Check(verb, subject, h(v, "cookie"), initiator)))
    assert sir_wire.decode(decode_message(message)) == Check(verb, subject, h(v, "cookie"), initiator)
    return {"message": message.hex()}


SUITE = IkeSuite(ENCRYPTION_BY_WIRE[20, 256], None, PRF_BY_ID[5], GROUP_BY_ID[31])


def resume_request(v: Values) -> Results:
    payloads = (Nonce(h(v, "Ni")), Notify(NotifyType.TICKET_OPAQUE, h(v, "ticket")))
    message = Message(h(v, "SPIi"), bytes(8), ExchangeType.IKE_SESSION_RESUME, 0, True, False, payloads)
    return {"message": encode_message(message).hex()}


def resume_keys(v: Values) -> Results:
    ni, nr = h(v, "Ni"), h(v, "Nr")
    skeyseed = resumption_skeyseed(SUITE.prf, h(v, "SK_d (old)"), ni, nr)
    keys = derive_ike_keys(SUITE, skeyseed, ni, nr, h(v, "SPIi"), h(v, "SPIr"))
    signed = signed_octets(SUITE.prf, h(v, "RealMessage1"), nr, keys.sk_pi, h(v, "IDi"))
    return {
        "SKEYSEED": skeyseed.hex(),
        "SK_d": keys.sk_d.hex(),
        "SK_ei": keys.sk_ei.hex(),
        "SK_er": keys.sk_er.hex(),
        "SK_pi": keys.sk_pi.hex(),
        "SK_pr": keys.sk_pr.hex(),
        "AUTH (initiator)": prf(SUITE.prf, keys.sk_pi, signed).hex(),
    }


# --- by the text of the document ---------------------------------------------------------------------


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def read_token(v: Values) -> Results:
    data = h(v, "role") + h(v, "SPIi") + h(v, "SPIr")
    if "taker" in v:
        data += ip_address(v["taker"]).packed
    return {"token": mac(h(v, "secret"), data)[:16].hex()}


def f(key: bytes, number: int, half: int) -> int:
    block = bytes([number]) + bytes(3) + half.to_bytes(4, "big") + bytes(8)
    out = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)  # noqa: S305
    return int.from_bytes(out[:4], "big")


def read_spi(v: Values) -> Results:
    packed = (int(v["epoch"]) % 2**20) << 44 | int(v["member"]) << 20 | int(v["random"], 16)
    left, right = packed >> 32, packed & 0xFFFFFFFF
    for number in range(8):
        left, right = right, left ^ f(h(v, "key"), number, right)
    return {"SPI": f"{left:08x}{right:08x}"}


def read_spi_check(v: Values) -> Results:
    both = int(v["SPI"], 16)
    left, right = both >> 32, both & 0xFFFFFFFF
    for number in reversed(range(8)):
        left, right = right ^ f(h(v, "key"), number, left), left
    packed = left << 32 | right
    if packed >> 28 & 0xFFFF:
        return {"origin": "none"}
    return {"origin": f"epoch {packed >> 44}, member {packed >> 20 & 0xFF}"}


def payload(next_type: int, body: bytes) -> bytes:
    return bytes([next_type, 0]) + (4 + len(body)).to_bytes(2, "big") + body


def notify(protocol: int, kind: int, spi_: bytes, data: bytes) -> bytes:
    return bytes([protocol, len(spi_)]) + kind.to_bytes(2, "big") + spi_ + data


def message_of(
    spis: bytes, exchange: int, flags: int, number: int, first: int, bodies: list[tuple[int, bytes]]
) -> str:
    """`bodies`: (type of the payload after this one, this one's body)."""
    content = b"".join(payload(following, body) for following, body in bodies)
    header = spis + bytes([first, 0x20, exchange, flags]) + number.to_bytes(4, "big")
    return (header + (28 + len(content)).to_bytes(4, "big") + content).hex()


def notifies(*bodies: bytes) -> list[tuple[int, bytes]]:
    return [(41 if at < len(bodies) - 1 else 0, body) for at, body in enumerate(bodies)]


def read_invalid_ike_spi(v: Values) -> Results:
    flags = 0x20 | (h(v, "flags of the request")[0] & 0x08 ^ 0x08)
    bodies = [notify(0, 4, b"", b""), *(notify(1, 16419, b"", t) for t in tokens_of(v))]
    spis, exchange, number = h(v, "SPIi") + h(v, "SPIr"), int(v["exchange type"]), int(v["message ID"])
    return {"message": message_of(spis, exchange, flags, number, 41, notifies(*bodies))}


def read_invalid_spi(v: Values) -> Results:
    bodies = [notify(0, 11, b"", h(v, "ESP SPI")), *(notify(1, 16419, b"", t) for t in tokens_of(v))]
    return {"message": message_of(h(v, "SPIi") + h(v, "SPIr"), 37, 0x08, 0, 41, notifies(*bodies))}


def read_vendor_id(v: Values) -> Results:
    return {"Vendor ID": hashlib.sha256(v["text"].encode()).digest()[:16].hex()}


def read_cookie(v: Values) -> Results:
    stamp = bytes([int(v["generation"])]) + int(v["time"]).to_bytes(4, "big")
    host = ip_address(v["address"]).packed
    data = bytes([int(v["protocol"])]) + h(v, "SPI") + bytes([len(host)]) + host
    data += int(v["port"]).to_bytes(2, "big") + stamp
    return {"cookie": (stamp + mac(h(v, "secret"), data)[:16]).hex()}


def read_check(v: Values) -> Results:
    verb = {"QUERY": 1, "ACK": 2, "NACK": 3}[v["verb"]]
    spi_ = h(v, "SPI")
    bodies = notifies(
        notify(int(v["protocol"]), 40970, spi_, bytes([verb])), notify(0, 16390, b"", h(v, "cookie"))
    )
    spis = spi_ if v["protocol"] == "1" else bytes(16)
    return {"message": message_of(spis, 37, h(v, "flags")[0], 0, 41, bodies)}


def read_resume_request(v: Values) -> Results:
    bodies = [(41, h(v, "Ni")), (0, notify(0, 16413, b"", h(v, "ticket")))]
    return {"message": message_of(h(v, "SPIi") + bytes(8), 38, 0x08, 0, 40, bodies)}


def read_resume_keys(v: Values) -> Results:
    ni, nr = h(v, "Ni"), h(v, "Nr")
    skeyseed = mac(h(v, "SK_d (old)"), b"Resumption" + ni + nr)
    stream, last = b"", b""
    for number in range(1, 8):
        last = mac(skeyseed, last + ni + nr + h(v, "SPIi") + h(v, "SPIr") + bytes([number]))
        stream += last
    results, at = {"SKEYSEED": skeyseed.hex()}, 0
    for name, length in (("SK_d", 32), ("SK_ei", 36), ("SK_er", 36), ("SK_pi", 32), ("SK_pr", 32)):
        results[name] = stream[at : at + length].hex()
        at += length
    sk_pi = bytes.fromhex(results["SK_pi"])
    results["AUTH (initiator)"] = mac(sk_pi, h(v, "RealMessage1") + nr + mac(sk_pi, h(v, "IDi"))).hex()
    return results


# --- the tests ---------------------------------------------------------------------------------------

Computation = Callable[[Values], Results]
KINDS: dict[str, tuple[Computation, Computation]] = {
    "token": (token, read_token),
    "spi": (spi, read_spi),
    "spi-check": (spi_check, read_spi_check),
    "invalid-ike-spi": (invalid_ike_spi, read_invalid_ike_spi),
    "invalid-spi": (invalid_spi, read_invalid_spi),
    "vendor-id": (vendor_id, read_vendor_id),
    "cookie": (cookie, read_cookie),
    "check-spi": (check, read_check),
    "resume-request": (resume_request, read_resume_request),
    "resume-keys": (resume_keys, read_resume_keys),
}
"""By what a block's name begins with, up to a slash: by the code, by the text."""


def kind_of(name: str) -> tuple[Computation, Computation]:
    return KINDS[name.split("/")[0]]


@pytest.mark.parametrize("name", VECTORS)
def test_the_code_makes_these_octets(name: str) -> None:
    inputs, results = VECTORS[name]
    assert kind_of(name)[0](inputs) == results


@pytest.mark.parametrize("name", VECTORS)
def test_the_text_leads_to_these_octets(name: str) -> None:
    inputs, results = VECTORS[name]
    assert kind_of(name)[1](inputs) == results


def test_every_kind_of_vector_is_there() -> None:
    assert {name.split("/")[0] for name in VECTORS} == set(KINDS)


def test_the_numbers_of_the_document_are_those_of_the_code() -> None:
    """The table of constants: `name | default | ...`."""
    text = DOCUMENT.read_text()
    options = CrashOptions()
    rows = {
        "boot window": f"{options.boot_window_s:g} s",
        "boot factor": f"{options.boot_factor:g}",
        "answers per SPI": f"{options.spi_rate:g} / {options.spi_burst:g}",
        "answers per source": f"{options.source_rate:g} / {options.source_burst:g}",
        "RETURNING": f"{options.total_rate:g} / {options.total_burst:g}",
        "RECENT": f"{options.recent_rate:g} / {options.recent_burst:g}",
        "GARBAGE": f"{options.garbage_rate:g} / {options.garbage_burst:g}",
        "MAPPED": f"{options.mapped_rate:g} / {options.mapped_burst:g}",
        "MAPPED_IKE": f"{options.mapped_rate:g} / {options.mapped_burst:g}",
        "ESP": f"{options.esp_rate:g} / {options.esp_burst:g}",
        "CHECK": f"{options.check_rate:g} / {options.check_burst:g}",
        "CHECK_ESP": f"{options.check_esp_rate:g} / {options.check_esp_burst:g}",
        "probes per SA": f"{options.probe_rate:g} / {options.probe_burst:g}",
        "queries per SA": f"{options.query_rate:g} / {options.query_burst:g}",
        "child news per SA": f"{options.lost_child_rate:g} / {options.lost_child_burst:g}",
        "rebuilds per peer": f"{options.rebuilds_per_hour:g} per hour / {options.rebuilds_per_hour:g}",
        "announcements": f"{options.announce_rate:g} per s",
        "announcement rounds": f"{options.announce_rounds}",
        "announcement pause": f"{options.announce_interval_s:g} s",
        "map keeps": f"{options.spi_map_keep_s:g} s",
        "map size": f"{options.spi_map_size}",
        "ticket key seals": f"{options.ticket_rotation_s:g} s",
        "used tickets": f"{options.used_tickets}",
        "half-open per ticket": f"{options.tickets_half_open}",
        "window": f"max({WINDOW_FLOOR_S:g} s, {WINDOW_RTTS:g} x RTT)",
        "cookie valid": f"{sir_wire.COOKIE_VALID_S:g} s",
        "cookie secret": f"{sir_wire.SECRET_LIFE_S:g} s",
    }
    for name, default in rows.items():
        assert f"| {name} | {default} |" in text, f"| {name} | {default} |"
    assert f"{int(CHECK_SPI)}" in text


def test_the_numbers_in_sentences_are_those_of_the_code() -> None:
    """Where a number stands in a formula or in a sentence; line breaks do not count."""
    connection = {field.name: field.default for field in fields(Connection)}
    told = (
        f"RTT + max(4 x RTTVAR, {rtt.MIN_MARGIN_S:g} s), at most {rtt.MAX_RTO_S:g} s;"
        f" {rtt.INITIAL_RTO_S:g} s without a measurement",
        f"| a request is repeated for | {connection['dpd_timeout_s']:g} s |",
        f"| one attempt at a new IKE SA | {EndpointConfig().init_timeout_s:g} s |",
        f"| at most {EndpointConfig().retry_cap_s:g} s | backoff grown",
        f"min({connection['silence_s']:g} s,"
        f" max({monitor.SILENCE_FLOOR_S:g} s, {monitor.SILENCE_RTTS:g} x RTT))",
        f"| idle | nothing protected heard for {connection['dpd_delay_s']:g} s |",
        f"| floor of liveness | {connection['dpd_floor_s']:g} s, and three transmissions |",
        f"| hints kept per episode | {monitor.MAX_HINTS} |",
        f"{rebuilds.FIRST_PAUSE_S:g} s, doubled up to {rebuilds.LONGEST_PAUSE_S:g} s",
        f"kept for {rebuilds.MAX_PEERS} peers",
        f"from the {sir.PATIENT_AFTER}th on {sir.PATIENT_CAP_S:g} s",
        f"| doubt about a child | {sir.CHILD_DOUBT_S:g} s after",
        f"at least {strangers.MIN_REQUEST} octets",
        f"at least {strangers.MIN_ESP} octets",
        f"max({lost_children.OVERTAKING_S:g} s, 2 x RTT)",
        f"max({attempts.SILENT_PATIENCE_S:g} s, {attempts.SILENT_PATIENCE_INTERVALS} x RTO)",
        f"at {EndpointConfig().cookie_threshold} half-open SAs",
        f"{refusals.PER_SOURCE.per_s:g} / {refusals.PER_SOURCE.burst:g} for each source"
        f" and {refusals.TOTAL.per_s:g} / {refusals.TOTAL.burst:g} in total",
        f"{repeats.HOME.per_s:g} / {repeats.HOME.burst:g} times to the peer's address,"
        f" {repeats.ELSEWHERE.per_s:g} / {repeats.ELSEWHERE.burst:g} times to another one",
        f"| ticket lifetime | {ResumptionOptions().lifetime_s:g} s |",
        f"| session resume patience | {resume.PATIENCE} transmissions |",
    )
    text = " ".join(DOCUMENT.read_text().split())
    assert [each for each in told if each not in text] == []


def test_the_waits_of_reconnect_are_those_of_the_policy() -> None:
    """Section 12.2."""
    text = DOCUMENT.read_text()
    for evidence, wait in policy._RECONNECT.items():
        sum_ = f"{wait.rtts:g} x RTT" + (" + RTO" if wait.rtos else "")
        sum_ = f"max({wait.floor_s:g} s, {sum_})" if wait.floor_s else sum_
        row = f"| reconnect, on {evidence.name} | at t + {sum_} + {policy.BEHIND_RTTS:g}s x RTT |"
        assert row in text, row


NEWS = {
    "NACK": News.NACK,
    "ACK": News.ACK,
    "time is over": News.CLOSED,
    "window over": News.CLOSED,
    "new SA up": News.REBUILT,
    "new SA failed": News.FAILED,
    "a protected word on the old SA": News.ALIVE,
}
ACTIONS = {
    "open": Action.OPEN,
    "remember it for a window": Action.REMEMBER,
    "attack": Action.ATTACK,
    "**condemn**": Action.CONDEMN,
}


def test_the_judgement_of_sir_is_the_table_of_the_code() -> None:
    """Section 10; where a verdict ends the case, the document names no phase."""
    section = DOCUMENT.read_text().split("## 10. ")[1].split("## 11. ")[0]
    table = section.split("| in | on | then | and |")[1].split("\n\n")[0]
    named: dict[tuple[Phase, News], Step] = {}
    for row in table.splitlines()[2:]:
        before, news, after, action = (cell.strip() for cell in row.strip("|").split("|"))
        step = Step(Phase[after] if after else Phase.QUIET, ACTIONS.get(action, Action.NONE))
        named |= {(Phase[phase], NEWS[news]): step for phase in before.split(", ")}
    for phase in Phase:
        for each in News:
            assert judge(phase, each) == named.get((phase, each), Step(phase, Action.NONE)), (phase, each)
    assert len(named) == 17


def main() -> None:
    """Write the results into the document."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        inputs, _ = blocks(found[0])[name]
        head = re.sub(r"^=> .*\n( .*\n)*", "", found[2], flags=re.MULTILINE)
        lines = [wrapped(f"=> {key} = ", value) for key, value in kind_of(name)[0](inputs).items()]
        return f"```vector {name}\n{head}" + "".join(lines) + "```"

    DOCUMENT.write_text(BLOCK.sub(block, DOCUMENT.read_text()))


def wrapped(head: str, value: str) -> str:
    if len(head) + len(value) <= 100:
        return f"{head}{value}\n"
    rows = [value[at : at + 64] for at in range(0, len(value), 64)]
    return head + "\n" + "".join(f"  {row}\n" for row in rows)


if __name__ == "__main__":
    main()
