"""Proposals: from swanctl.conf's notation to the SA payload, the responder's choice, the initiator's check.

All choices are pure functions of their arguments (RFC 7296 sections 2.7, 3.3).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from deadpeer.wire import Attribute, Proposal, Protocol, SecurityAssociation, Transform, TransformType

from .errors import ProposalError
from .suites import (
    ENCRYPTION_BY_WIRE,
    ENCRYPTIONS,
    GROUP_BY_ID,
    GROUPS,
    INTEGRITIES,
    INTEGRITY_BY_ID,
    PRF_BY_ID,
    PRF_OF_INTEGRITY,
    PRFS,
    Encryption,
    EspSuite,
    Group,
    IkeSuite,
    Integrity,
    Prf,
)

_KEY_LENGTH = 14
_NONE = 0
_ESN_WORDS: Mapping[str, bool] = {"noesn": False, "esn": True}


@dataclass(frozen=True, slots=True)
class ProposalTemplate:
    """One proposal as configured: what is acceptable of each kind, best first.

    `prfs` is empty for ESP; `groups` may be empty for ESP (no PFS); `esn` holds what is acceptable, and is
    (False,) for IKE, where it means nothing. `encryptions` are all AEADs (`integrities` empty) or none is.
    """

    protocol: Protocol
    encryptions: tuple[Encryption, ...]
    integrities: tuple[Integrity, ...]
    prfs: tuple[Prf, ...]
    groups: tuple[Group, ...]
    esn: tuple[bool, ...] = (False,)

    @property
    def name(self) -> str:
        """The proposal in swanctl.conf's notation; parse_proposal reads it back."""
        words = [e.name for e in self.encryptions]
        words += [i.name for i in self.integrities]
        words += [p.name for p in self.prfs]
        words += [g.name for g in self.groups]
        if self.esn != (False,):
            words += ["esn" if esn else "noesn" for esn in self.esn]
        return "-".join(words)

    def to_wire(self, number: int, spi: bytes, with_group: bool = True) -> Proposal:
        """The proposal substructure that offers this; `with_group` False leaves the groups out (IKE_AUTH)."""
        transforms = [_encryption_transform(e) for e in self.encryptions]
        transforms += [Transform(TransformType.PRF, p.transform_id) for p in self.prfs]
        transforms += [Transform(TransformType.INTEG, i.transform_id) for i in self.integrities]
        if with_group:
            transforms += [Transform(TransformType.KEY_EXCHANGE, g.transform_id) for g in self.groups]
        if self.protocol == Protocol.ESP:
            transforms += [Transform(TransformType.ESN, int(esn)) for esn in self.esn]
        return Proposal(number, self.protocol, spi, tuple(transforms))


@dataclass(frozen=True, slots=True)
class SelectedIke:
    """A chosen IKE proposal: its number, the suite, the peer's SPI (empty in IKE_SA_INIT), and the answer.

    `wire` is the answering proposal without an SPI; `answer` puts ours in.
    """

    number: int
    suite: IkeSuite
    spi: bytes
    wire: Proposal

    def answer(self, spi: bytes = b"") -> SecurityAssociation:
        """The SA payload that answers with this choice and our own `spi` (empty in IKE_SA_INIT)."""
        return SecurityAssociation((replace(self.wire, spi=spi),))


@dataclass(frozen=True, slots=True)
class SelectedEsp:
    """A chosen ESP proposal: its number, the suite, the peer's (inbound, there) SPI, and the answer.

    `wire` is the answering proposal without an SPI; `answer` puts ours in.
    """

    number: int
    suite: EspSuite
    spi: bytes
    wire: Proposal

    def answer(self, spi: bytes) -> SecurityAssociation:
        """The SA payload that answers with this choice and our own inbound `spi`."""
        return SecurityAssociation((replace(self.wire, spi=spi),))


def parse_proposal(text: str, protocol: Protocol) -> ProposalTemplate:
    """Read one proposal of swanctl.conf, for example aes256gcm16-prfsha384-x25519-ecp256.

    With CBC and no PRF named, the PRFs are those of the integrity algorithms, as strongSwan does it.
    Raises ProposalError, which names the word that is wrong and what exists, or what is missing.
    """
    words = _sort_words(text, protocol)
    template = ProposalTemplate(
        protocol=protocol,
        encryptions=tuple(words.encryptions),
        integrities=tuple(words.integrities),
        prfs=tuple(words.prfs),
        groups=tuple(words.groups),
        esn=tuple(words.esn) or (False,),
    )
    if protocol == Protocol.IKE and not template.prfs and not any(e.aead for e in template.encryptions):
        template = replace(template, prfs=tuple(PRF_OF_INTEGRITY[i.name] for i in template.integrities))
    _check_complete(template, text)
    return template


def offer(templates: Sequence[ProposalTemplate], spi: bytes, with_group: bool = True) -> SecurityAssociation:
    """The SA payload that offers `templates`, numbered from 1 in their order, all with the same `spi`.

    `with_group` False leaves the groups out, for ESP in IKE_AUTH; what is then the same is offered once.
    """
    bodies = [template.to_wire(0, spi, with_group) for template in templates]
    distinct = list(dict.fromkeys(bodies))
    return SecurityAssociation(tuple(replace(body, number=n) for n, body in enumerate(distinct, 1)))


def acceptable_groups(templates: Iterable[ProposalTemplate]) -> tuple[Group, ...]:
    """Every group of `templates`, each once, best first."""
    return tuple(dict.fromkeys(group for template in templates for group in template.groups))


def select_ike(
    sa: SecurityAssociation, templates: Sequence[ProposalTemplate], prefer_group: int | None = None
) -> SelectedIke | None:
    """The responder's choice of an IKE proposal, None where nothing fits.

    The order of `templates` decides first, then the peer's order of proposals, and within a proposal the
    template's order of transforms; save that `prefer_group`, the transform ID of the peer's KE payload, is
    taken wherever a template can have it, which spares an INVALID_KE_PAYLOAD round trip.
    """
    for template, proposal, preferred in _pairings(sa, templates, Protocol.IKE, prefer_group):
        choice = _match(template, proposal, with_group=True, prefer_group=preferred)
        if choice is not None and choice.prf is not None and choice.group is not None:
            suite = IkeSuite(choice.encryption, choice.integrity, choice.prf, choice.group)
            return SelectedIke(proposal.number, suite, proposal.spi, _answer(proposal, choice))
    return None


def select_esp(
    sa: SecurityAssociation,
    templates: Sequence[ProposalTemplate],
    with_group: bool,
    prefer_group: int | None = None,
) -> SelectedEsp | None:
    """The responder's choice of an ESP proposal, None where nothing fits; order of preference as select_ike.

    `with_group` False (IKE_AUTH) disregards groups on both sides; True (CREATE_CHILD_SA) wants the same one,
    or none on both sides.
    """
    for template, proposal, preferred in _pairings(sa, templates, Protocol.ESP, prefer_group):
        choice = _match(template, proposal, with_group=with_group, prefer_group=preferred)
        if choice is not None:
            suite = EspSuite(choice.encryption, choice.integrity, choice.group, choice.esn)
            return SelectedEsp(proposal.number, suite, proposal.spi, _answer(proposal, choice))
    return None


def check_ike_response(offered: SecurityAssociation, response: SecurityAssociation) -> IkeSuite:
    """The suite that the responder chose; raises ProposalError unless it is one that was offered."""
    proposal, choice = _check_response(offered, response, Protocol.IKE)
    if choice.prf is None or choice.group is None:
        raise ProposalError(f"proposal {proposal.number} of the response lacks a PRF or a key exchange group")
    return IkeSuite(choice.encryption, choice.integrity, choice.prf, choice.group)


def check_esp_response(offered: SecurityAssociation, response: SecurityAssociation) -> SelectedEsp:
    """What the responder chose, `spi` being its own; raises ProposalError unless it was offered."""
    proposal, choice = _check_response(offered, response, Protocol.ESP)
    suite = EspSuite(choice.encryption, choice.integrity, choice.group, choice.esn)
    return SelectedEsp(proposal.number, suite, proposal.spi, replace(proposal, spi=b""))


class _Choice(NamedTuple):
    encryption: Encryption
    integrity: Integrity | None
    prf: Prf | None
    group: Group | None
    esn: bool


class _Words(NamedTuple):
    encryptions: list[Encryption]
    integrities: list[Integrity]
    prfs: list[Prf]
    groups: list[Group]
    esn: list[bool]


T = TypeVar("T")


def _sort_words(text: str, protocol: Protocol) -> _Words:
    words = _Words([], [], [], [], [])
    for word in text.strip().lower().split("-"):
        if word in ENCRYPTIONS:
            _append(words.encryptions, ENCRYPTIONS[word])
        elif word in INTEGRITIES:
            _append(words.integrities, INTEGRITIES[word])
        elif word in GROUPS:
            _append(words.groups, GROUPS[word])
        elif word in PRFS and protocol == Protocol.IKE:
            _append(words.prfs, PRFS[word])
        elif word in _ESN_WORDS and protocol == Protocol.ESP:
            _append(words.esn, _ESN_WORDS[word])
        else:
            raise ProposalError(_unknown_word(word, text, protocol))
    return words


def _append(values: list[T], value: T) -> None:
    if value not in values:
        values.append(value)


def _unknown_word(word: str, text: str, protocol: Protocol) -> str:
    if word in PRFS:
        return f"{word!r} in {text!r}: an ESP proposal has no PRF, leave it out"
    if word in _ESN_WORDS:
        return f"{word!r} in {text!r}: sequence numbers are ESP's, leave it out of an IKE proposal"
    known = [*ENCRYPTIONS, *INTEGRITIES, *(PRFS if protocol == Protocol.IKE else ()), *GROUPS]
    known += [] if protocol == Protocol.IKE else list(_ESN_WORDS)
    return f"unknown algorithm {word!r} in {text!r}; there are {', '.join(known)}"


def _check_complete(template: ProposalTemplate, text: str) -> None:
    aead = {encryption.aead for encryption in template.encryptions}
    if not aead:
        raise ProposalError(f"{text!r} names no encryption algorithm, for example aes256gcm16")
    if len(aead) == 2:
        raise ProposalError(f"{text!r} mixes AEAD and CBC ciphers: write two proposals")
    if aead == {True} and template.integrities:
        raise ProposalError(
            f"{text!r}: an AEAD cipher takes no integrity algorithm: leave out {template.integrities[0].name}"
            + (" or, for the PRF, write prf" + template.integrities[0].hash if not template.prfs else "")
        )
    if aead == {False} and not template.integrities:
        raise ProposalError(f"{text!r}: a CBC cipher needs an integrity algorithm, for example sha256")
    if template.protocol == Protocol.IKE and not template.prfs:
        raise ProposalError(f"{text!r}: an AEAD cipher needs a PRF named, for example prfsha256")
    if template.protocol == Protocol.IKE and not template.groups:
        raise ProposalError(f"{text!r} names no key exchange group, for example x25519")


def _encryption_transform(encryption: Encryption) -> Transform:
    if encryption.key_bits is None:
        return Transform(TransformType.ENCR, encryption.transform_id)
    return Transform(
        TransformType.ENCR, encryption.transform_id, (Attribute(_KEY_LENGTH, encryption.key_bits),)
    )


def _pairings(
    sa: SecurityAssociation,
    templates: Sequence[ProposalTemplate],
    protocol: Protocol,
    prefer_group: int | None,
) -> Iterator[tuple[ProposalTemplate, Proposal, int | None]]:
    """Every (template, proposal) to try, in order of preference; the preferred group before any other."""
    proposals = [proposal for proposal in sa.proposals if proposal.protocol == protocol]
    for template in templates:
        if template.protocol != protocol:
            continue
        for preferred in (prefer_group, None) if prefer_group is not None else (None,):
            for proposal in proposals:
                yield template, proposal, preferred


def _match(
    template: ProposalTemplate, proposal: Proposal, *, with_group: bool, prefer_group: int | None
) -> _Choice | None:
    """The best choice that `proposal` and `template` have in common; `prefer_group` allows no other group."""
    has = _Offered.read(proposal)
    if has is None:
        return None
    encryption = _first(template.encryptions, has.encryptions)
    integrity = _first(template.integrities, has.integrities)
    prf = _first(template.prfs, has.prfs)
    esn = _first(template.esn, has.esn)
    if encryption is None or esn is None:
        return None
    if encryption.aead and has.integrities and None not in has.integrities:
        return None
    if not encryption.aead and integrity is None:
        return None
    if bool(template.prfs) != (prf is not None) or (has.prfs and prf is None):
        return None
    group: Group | None = None
    if with_group or proposal.protocol == Protocol.IKE:
        wanted = [g for g in template.groups if prefer_group in (None, g.transform_id)]
        group = _first(wanted, has.groups)
        if group is None and (template.groups or (has.groups and None not in has.groups)):
            return None
    return _Choice(encryption, None if encryption.aead else integrity, prf, group, esn)


def _first(ours: Iterable[T], theirs: Sequence[T | None]) -> T | None:
    return next((candidate for candidate in ours if candidate in theirs), None)


@dataclass(frozen=True, slots=True)
class _Offered:
    """A peer's proposal, read: what we know of each type. None stands for the transform ID NONE (0)."""

    encryptions: tuple[Encryption, ...]
    integrities: tuple[Integrity | None, ...]
    prfs: tuple[Prf | None, ...]
    groups: tuple[Group | None, ...]
    esn: tuple[bool, ...]

    @staticmethod
    def read(proposal: Proposal) -> "_Offered | None":
        """None where it can't be chosen at all: it holds a type unknown here (RFC 7296 section 3.3.6).

        A type that is there, but with nothing in it that we know, is not the same as one that is absent.
        """
        by_type: dict[int, list[Transform]] = {}
        for transform in proposal.transforms:
            by_type.setdefault(int(transform.type), []).append(transform)
        if not by_type.keys() <= _TYPES[proposal.protocol == Protocol.IKE]:
            return None
        plain = {kind: [t.id for t in ts if not t.attributes] for kind, ts in by_type.items()}
        groups = _known(plain.get(TransformType.KEY_EXCHANGE), GROUP_BY_ID)
        integrities = _known(plain.get(TransformType.INTEG), INTEGRITY_BY_ID)
        prfs = _known(plain.get(TransformType.PRF), PRF_BY_ID)
        if groups is None or integrities is None or prfs is None:
            return None
        esn_ids = plain.get(TransformType.ESN, [_NONE])
        return _Offered(
            encryptions=tuple(
                e for t in by_type.get(TransformType.ENCR, ()) if (e := _encryption_of(t)) is not None
            ),
            integrities=integrities,
            prfs=prfs,
            groups=groups,
            esn=tuple(bool(i) for i in esn_ids if i in (0, 1)),
        )


_TYPES: Mapping[bool, frozenset[int]] = {
    True: frozenset(
        int(t)
        for t in (TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KEY_EXCHANGE)
    ),
    False: frozenset(
        int(t)
        for t in (TransformType.ENCR, TransformType.INTEG, TransformType.KEY_EXCHANGE, TransformType.ESN)
    ),
}


def _known(ids: list[int] | None, table: Mapping[int, T]) -> tuple[T | None, ...] | None:
    """The known ones of `ids`, None in it for NONE; () where the type is absent; None where none is known."""
    if ids is None:
        return ()
    known = tuple(None if i == _NONE else table[i] for i in ids if i == _NONE or i in table)
    return known or None


def _encryption_of(transform: Transform) -> Encryption | None:
    """The encryption named; None with any attribute but one Key Length where one belongs."""
    if any(int(a.type) != _KEY_LENGTH for a in transform.attributes) or len(transform.attributes) > 1:
        return None
    return ENCRYPTION_BY_WIRE.get((transform.id, transform.key_length))


def _answer(proposal: Proposal, choice: _Choice) -> Proposal:
    """The peer's proposal cut down to the choice: its number, one transform of each type that it holds."""
    picked = {
        int(TransformType.ENCR): choice.encryption.transform_id,
        int(TransformType.PRF): choice.prf.transform_id if choice.prf else _NONE,
        int(TransformType.INTEG): choice.integrity.transform_id if choice.integrity else _NONE,
        int(TransformType.KEY_EXCHANGE): choice.group.transform_id if choice.group else _NONE,
        int(TransformType.ESN): int(choice.esn),
    }
    transforms: dict[int, Transform] = {}
    for transform in proposal.transforms:
        kind = int(transform.type)
        if kind in transforms or transform.id != picked[kind]:
            continue
        if kind == TransformType.ENCR:
            if _encryption_of(transform) == choice.encryption:
                transforms[kind] = transform
        elif not transform.attributes:
            transforms[kind] = transform
    return Proposal(proposal.number, proposal.protocol, b"", tuple(transforms.values()))


def _check_response(
    offered: SecurityAssociation, response: SecurityAssociation, protocol: Protocol
) -> tuple[Proposal, _Choice]:
    if len(response.proposals) != 1:
        raise ProposalError(f"the response holds {len(response.proposals)} proposals instead of one")
    answer = response.proposals[0]
    ours = next((p for p in offered.proposals if p.number == answer.number), None)
    if ours is None or answer.protocol != protocol or ours.protocol != protocol:
        raise ProposalError(f"the response chooses proposal {answer.number}, which was not offered")
    kinds = [int(t.type) for t in answer.transforms]
    if len(set(kinds)) != len(kinds):
        raise ProposalError("the response holds two transforms of one type")
    for transform in answer.transforms:
        # NONE said aloud is the same as saying nothing (RFC 7296 section 3.3.3).
        tolerated = transform.type == TransformType.INTEG and transform.id == _NONE
        if transform not in ours.transforms and not tolerated:
            raise ProposalError(f"the response chooses {transform}, which was not offered")
    missing = {int(t.type) for t in ours.transforms} - set(kinds)
    if Transform(TransformType.ESN, 0) in ours.transforms:
        missing.discard(int(TransformType.ESN))
    if missing:
        raise ProposalError(f"the response leaves out transform type {min(missing)}")
    return answer, _read_choice(answer)


def _read_choice(answer: Proposal) -> _Choice:
    has = _Offered.read(answer)
    if has is None or not has.encryptions:
        raise ProposalError("the response holds an algorithm that does not exist here")
    encryption = has.encryptions[0]
    integrity = has.integrities[0] if has.integrities else None
    if encryption.aead is not (integrity is None):
        raise ProposalError(
            f"the response pairs {encryption.name} with the wrong kind of integrity algorithm"
        )
    return _Choice(
        encryption,
        integrity,
        has.prfs[0] if has.prfs else None,
        has.groups[0] if has.groups else None,
        has.esn[0] if has.esn else False,
    )


_STRONG_GROUPS = "x25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp2048"
_AEADS = "aes256gcm16-aes128gcm16-chacha20poly1305"
_CBCS = "aes256-aes128-sha256-sha384-sha512"

DEFAULT_IKE_PROPOSALS: tuple[ProposalTemplate, ...] = (
    parse_proposal(f"{_AEADS}-prfsha256-prfsha384-prfsha512-{_STRONG_GROUPS}", Protocol.IKE),
    parse_proposal(f"{_CBCS}-{_STRONG_GROUPS}", Protocol.IKE),
)

# Forward secrecy on rekey first; without it where the peer's configuration does not ask for it (strongSwan's
# default). In IKE_AUTH, where no group is offered, the four are two.
DEFAULT_ESP_PROPOSALS: tuple[ProposalTemplate, ...] = (
    parse_proposal(f"{_AEADS}-{_STRONG_GROUPS}", Protocol.ESP),
    parse_proposal(_AEADS, Protocol.ESP),
    parse_proposal(f"{_CBCS}-{_STRONG_GROUPS}", Protocol.ESP),
    parse_proposal(_CBCS, Protocol.ESP),
)
