"""Two gateways with one address: holding it is the ownership. Sans-IO.

Whatever moves the address (keepalived, a script, a person) detects the failure; here it is only learnt
that the address came or went. Who gains it begins a new life, with the secrets that both have in a file:
it makes the other's tokens and opens its tickets. Who loses it is fenced, and its life is over: the other
may have told its peers so.

Two that believe in the same address do no harm: while the partner says that it holds the address too,
nothing is told about its SAs. It is asked when the address comes, and again while we hold it; until it has
answered, or `ASKS` questions have stayed unanswered, it counts as alive. Who does not hold the address asks
as well: a partner that has long been silent when the address comes gets one last question, and not `ASKS`.

Who serves shows the other one its SPI map (`standby_map`).

Who was stopped (SIGSTOP, a suspended machine) must not serve what has queued up meanwhile. So whoever runs
this asks the kernel before it serves anything (news of addresses wait in a queue, and are read first). As a
backstop the fence closes if the address was not seen to be ours for `HOLD_S`; then a new life begins.
"""

from __future__ import annotations

import hmac
from collections import Counter, deque
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct, error

from deadpeer.cluster.membership import LifeBegins, LifeOver, PersistEpoch, Trouble
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer, SharedKey
from deadpeer.cluster.standby_map import MAX_RECORDS, SharedMap
from deadpeer.crypto import Entropy
from deadpeer.values import NS_PER_S

ANSWER_S = 0.1
"""How long the partner has to say that it holds the address too, before it is spoken for."""
ASKS = 3
"""So many questions must stay unanswered, within that time or longer."""
WATCH_S = 0.1
"""How often it is asked while we do not hold the address."""
SILENT_S = 0.3
"""For so long, and for `ASKS` questions or more, it must have been silent before we gain the address. Where
no question was put for so long, nobody knows what it would have said: it counts from the next one."""
LAST_WORD_S = 0.02
"""How long it then has to answer the last one: round trips between two such gateways take less."""
HOLD_S = 2.0
"""How long it counts that the address was seen to be ours. Look at least four times as often."""
ASK_S = 1.0
"""How often it is asked while we hold the address."""
BELIEVE_S = 3.0
"""How long its word that it holds the address counts."""
SHOWN_S = 0.5
"""How long after an answer its SPI map is taken from it."""
MAX_KEYS = 4


@dataclass(frozen=True, slots=True)
class ToPartner:
    """Send these octets to the partner. `asks`: they are a question; say `asked` when it has left."""

    octets: bytes
    asks: bool = False


@dataclass(frozen=True, slots=True)
class PartnerLives:
    """Whether the partner must be taken to hold the address as well."""

    lives: bool


Output = PersistEpoch | LifeBegins | LifeOver | ToPartner | PartnerLives | Trouble


def shared_secrets(keys: list[bytes]) -> ClusterSecrets:
    """What both make from the keys in their file (32 octets each, the one in use first, at most four)."""
    if not 1 <= len(keys) <= MAX_KEYS or len(set(keys)) != len(keys):
        raise ValueError(f"{len(keys)} keys, not 1 to {MAX_KEYS} different ones")
    found = []
    for kind in KeyKind:
        for position, key in enumerate(keys):
            secret = Sealer(key, "standby").derive(kind.value)
            found.append(SharedKey(kind, len(keys) - position, 0, True, secret))
    return ClusterSecrets(1, tuple(found))


class Standby:
    """One of the two. `number`: 0 or 1, the partner's is the other.

    `map_size`: so many records of the partner's SPI map are kept. Times are nanoseconds of a clock that runs
    while the machine is suspended.
    """

    def __init__(
        self,
        number: int,
        disk_epoch: int,
        keys: list[bytes],
        entropy: Entropy,
        map_size: int = MAX_RECORDS,
    ) -> None:
        if number not in (0, 1):
            raise ValueError(f"number {number} is not 0 or 1")
        self.counters: Counter[str] = Counter()
        self.map = SharedMap(map_size)
        self._number = number
        self._epoch = disk_epoch
        self._secrets = shared_secrets(keys)
        self._macs = [Sealer(key, "standby").derive("partner") for key in keys]
        self._entropy = entropy
        self._held = False
        self._begun = False
        self._seen_ns = 0
        """When the address was last seen to be ours."""
        self._asks = 0
        """Questions of the present doubt that have stayed unanswered."""
        self._unheard = 0
        """Questions since its last answer."""
        self._unheard_since_ns = 0
        self._asked_ns = 0
        """When the first and the last of them was put."""
        self._last_word = False
        """Whether it is to have its time for the last question from when that has left."""
        self._nonce = b""
        self._answered, self._answered_ns = b"", 0
        """The nonce of the last question that was answered, and when that was."""
        self._doubt_until_ns = 0
        self._next_doubt_ns = 0
        self._ask_due_ns = 0
        self._claims_until_ns = 0
        self._lives = True
        self._namesake = False
        """Whether it was said that somebody has our number."""
        self._outputs: deque[Output] = deque()

    # --- the fence that a gate asks ----------------------------------------------------------------

    def is_open(self, now_ns: int) -> bool:
        """Whether this one may serve: it holds the address, and its epoch is on disk."""
        return self._held and self._begun and now_ns - self._seen_ns < HOLD_S * NS_PER_S

    # --- inputs ------------------------------------------------------------------------------------

    def address(self, now_ns: int, held: bool) -> None:
        """The address was looked for, and is ours or is not: whenever it comes or goes, and often."""
        if held and self._held and now_ns - self._seen_ns < HOLD_S * NS_PER_S:
            self._seen_ns = now_ns
            return
        if self._held:
            self._held = self._begun = False
            self.map.over()
            self.counters["both hold the address"] = 0
            self._outputs.append(LifeOver("the address is not ours any more, or was out of sight"))
            self._ask_due_ns = now_ns
        if not held:
            return
        self._held, self._seen_ns = True, now_ns
        self._epoch += 1
        self._outputs.append(PersistEpoch(self._epoch))
        self._lives = True
        self._claims_until_ns = 0
        self._last_word = self._long_silent(now_ns)
        self._doubt(now_ns, LAST_WORD_S if self._last_word else BELIEVE_S)

    def asked(self, now_ns: int) -> None:
        """A question has left, perhaps some time after it was put."""
        if self._last_word:
            self._last_word = False
            self._doubt_until_ns = now_ns + int(LAST_WORD_S * NS_PER_S)

    def persisted(self, now_ns: int) -> None:
        """The epoch of `PersistEpoch` is on disk."""
        if self._held and not self._begun:
            self._begun = True
            self.map.begin(now_ns, self._epoch)
            self._outputs.append(LifeBegins(self._epoch, self._secrets))
            self._judge(now_ns)

    def receive(self, now_ns: int, octets: bytes) -> None:
        """From the partner, or from somebody who says so."""
        if octets[1:2] == _MAP_KIND:
            self._be_shown(now_ns, octets)
            return
        try:
            version, kind, sender, held, _, nonce, mac = _MESSAGE.unpack(octets)
        except error:
            self.counters["malformed"] += 1
            return
        # Any of our keys will do: while they are renewed, the two files have them in another order.
        key = self._key_of(octets[: -len(mac)], mac)
        if key is None or version != 1 or sender != 1 - self._number:
            self.counters["forged"] += 1
            if key is not None and sender == self._number and nonce != self._nonce:
                self._meet_namesake()
            return
        if kind == _ASK:
            self._outputs.append(ToPartner(self._message(_ANSWER, nonce, key)))
            if not held:
                self._show(now_ns, nonce, key)
            if held and self._begun and not self._lives and now_ns >= self._next_doubt_ns:
                # It says that it holds the address. That may be an old word of its, played back: ask.
                self._next_doubt_ns = now_ns + int(ASK_S * NS_PER_S)
                self._doubt(now_ns, BELIEVE_S)
                self._judge(now_ns)
            return
        if not self._nonce or not hmac.compare_digest(nonce, self._nonce):
            self.counters["answer not awaited"] += 1
            return
        self._answered, self._answered_ns = nonce, now_ns
        self._nonce, self._asks, self._unheard = b"", 0, 0
        self._doubt_until_ns = now_ns
        self._ask_due_ns = now_ns + int((ASK_S if self._held else WATCH_S) * NS_PER_S)
        self._claims_until_ns = now_ns + int(BELIEVE_S * NS_PER_S) if held else now_ns
        self._judge(now_ns)

    def expire(self, now_ns: int) -> None:
        """The deadline came."""
        if now_ns >= self._ask_due_ns:
            self._ask(now_ns)
        if self._asks > ASKS and self._doubt_until_ns > now_ns:
            self._doubt_until_ns = now_ns
        self._judge(now_ns)

    # --- outputs -----------------------------------------------------------------------------------

    def poll(self) -> Output | None:
        """The next output, None when all are drained."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> int | None:
        """When `expire` has something to do, ns."""
        due = [self._ask_due_ns]
        if self._begun and self._lives:
            due.append(max(self._doubt_until_ns, self._claims_until_ns))
        return min(due)

    # --- helpers -----------------------------------------------------------------------------------

    def _judge(self, now_ns: int) -> None:
        lives = now_ns < max(self._doubt_until_ns, self._claims_until_ns)
        if self._begun and lives != self._lives:
            self._lives = lives
            self._outputs.append(PartnerLives(lives))
        claims = now_ns < self._claims_until_ns
        if self._held and claims != bool(self.counters["both hold the address"]):
            self.counters["both hold the address"] = int(claims)
            if claims:
                why = "the partner holds the address as well; nothing is told about its SAs"
                self._outputs.append(Trouble("both_active", why))

    def _long_silent(self, now_ns: int) -> bool:
        silent_ns = SILENT_S * NS_PER_S
        asked_lately = now_ns - self._asked_ns <= silent_ns
        return self._unheard >= ASKS and asked_lately and now_ns - self._unheard_since_ns >= silent_ns

    def _doubt(self, now_ns: int, at_most_s: float) -> None:
        """The partner counts as alive until it has answered or stayed silent."""
        self._doubt_until_ns = now_ns + int(at_most_s * NS_PER_S)
        self._asks, self._nonce = 0, b""
        self._ask(now_ns)

    def _ask(self, now_ns: int) -> None:
        """The same question again, until it is answered; often while we wait for the answer."""
        self._nonce = self._nonce or self._entropy.octets(16)
        self._asks += 1
        if not self._unheard or now_ns - self._asked_ns > SILENT_S * NS_PER_S:
            self._unheard, self._unheard_since_ns = 0, now_ns
        self._unheard += 1
        self._asked_ns = now_ns
        pause_s = ASK_S if self._held else WATCH_S
        if self._asks <= ASKS and self._doubt_until_ns > now_ns:
            pause_s = ANSWER_S / ASKS
        self._ask_due_ns = now_ns + int(pause_s * NS_PER_S)
        self._outputs.append(ToPartner(self._message(_ASK, self._nonce, self._macs[0]), asks=True))

    def _show(self, now_ns: int, nonce: bytes, key: bytes) -> None:
        for body in self.map.bodies(now_ns):
            signed = _SHOWN.pack(1, _MAP, self._number, nonce) + body
            self._outputs.append(ToPartner(signed + _tag(key, signed)))

    def _be_shown(self, now_ns: int, octets: bytes) -> None:
        signed, mac = octets[:-_MAC_SIZE], octets[-_MAC_SIZE:]
        if len(signed) < _SHOWN.size:
            self.counters["malformed"] += 1
            return
        version, _, sender, nonce = _SHOWN.unpack_from(signed)
        if self._key_of(signed, mac) is None or version != 1 or sender != 1 - self._number:
            self.counters["forged"] += 1
        elif (
            self._begun
            or now_ns - self._answered_ns > SHOWN_S * NS_PER_S
            or not hmac.compare_digest(nonce, self._answered)
        ):
            # With our life is what the partner had before it; of what it has now we must not speak.
            self.map.counters["map not awaited"] += 1
        else:
            self.map.take(now_ns, signed[_SHOWN.size :])

    def _meet_namesake(self) -> None:
        """What the other one's SPIs say is not to be told from our own, of lives that are over."""
        if not self._namesake:
            self._namesake = True
            why = f"the partner is number {self._number} too, or somebody plays old words of ours back to us"
            self._outputs.append(Trouble("number_taken", why))

    def _message(self, kind: int, nonce: bytes, key: bytes) -> bytes:
        body = _MESSAGE.pack(1, kind, self._number, int(self._held), self._epoch, nonce, b"")[:-_MAC_SIZE]
        return body + _tag(key, body)

    def _key_of(self, body: bytes, mac: bytes) -> bytes | None:
        """With which of our keys this was said."""
        return next((key for key in self._macs if hmac.compare_digest(mac, _tag(key, body))), None)


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, sha256)[:_MAC_SIZE]


_MAC_SIZE = 16
_ASK, _ANSWER, _MAP = 1, 2, 3
_MAP_KIND = bytes((_MAP,))
# version, kind, sender's number, nonce of the question; the body and the MAC follow
_SHOWN = Struct("!BBB16s")
# version, kind, sender's number, holds the address, epoch, nonce, MAC
_MESSAGE = Struct(f"!BBBBQ16s{_MAC_SIZE}s")
