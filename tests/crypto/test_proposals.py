"""Proposals: the notation, what goes on the wire, and choices that are always within both sides' sets."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crypto import (
    DEFAULT_ESP_PROPOSALS,
    DEFAULT_IKE_PROPOSALS,
    ENCRYPTIONS,
    GROUPS,
    INTEGRITIES,
    PRFS,
    Encryption,
    Group,
    Integrity,
    Prf,
    ProposalError,
    ProposalTemplate,
    acceptable_groups,
    check_esp_response,
    check_ike_response,
    offer,
    parse_proposal,
    select_esp,
    select_ike,
)
from deadpeer.wire import Attribute, Cursor, Proposal, Protocol, SecurityAssociation, Transform, TransformType

ESP_SPI = b"\x00\x01\x02\x03"
ENCR, PRF, INTEG, KE, ESN = (
    TransformType.ENCR,
    TransformType.PRF,
    TransformType.INTEG,
    TransformType.KEY_EXCHANGE,
    TransformType.ESN,
)
GCM256 = Transform(ENCR, 20, (Attribute(14, 256),))
CBC256 = Transform(ENCR, 12, (Attribute(14, 256),))


def ike(*texts: str) -> tuple[ProposalTemplate, ...]:
    return tuple(parse_proposal(text, Protocol.IKE) for text in texts)


def esp(*texts: str) -> tuple[ProposalTemplate, ...]:
    return tuple(parse_proposal(text, Protocol.ESP) for text in texts)


def ike_sa(*transforms: Transform, number: int = 1) -> SecurityAssociation:
    return SecurityAssociation((Proposal(number, Protocol.IKE, b"", transforms),))


def esp_sa(*transforms: Transform, number: int = 1) -> SecurityAssociation:
    return SecurityAssociation((Proposal(number, Protocol.ESP, ESP_SPI, transforms),))


# --- notation -----------------------------------------------------------------------------------------------


def test_words_land_where_they_belong_in_their_order() -> None:
    (t,) = ike("aes256gcm16-chacha20poly1305-prfsha384-prfsha256-ecp384-curve25519")
    assert [e.name for e in t.encryptions] == ["aes256gcm16", "chacha20poly1305"]
    assert [p.name for p in t.prfs] == ["prfsha384", "prfsha256"]
    assert [g.transform_id for g in t.groups] == [20, 31]
    assert (t.integrities, t.esn) == ((), (False,))
    assert t.name == "aes256gcm16-chacha20poly1305-prfsha384-prfsha256-ecp384-x25519"


def test_cbc_without_a_prf_takes_those_of_its_integrity_algorithms() -> None:
    (t,) = ike("aes128-sha512-sha256-modp2048")
    assert [p.name for p in t.prfs] == ["prfsha512", "prfsha256"]
    (t,) = ike("aes128-sha512-sha256-prfsha384-modp2048")
    assert [p.name for p in t.prfs] == ["prfsha384"]


def test_esn_words() -> None:
    assert esp("aes256gcm16")[0].esn == (False,)
    assert esp("aes256gcm16-esn")[0].esn == (True,)
    assert esp("aes256gcm16-esn-noesn")[0].esn == (True, False)
    assert esp("aes256gcm16-noesn-esn")[0].esn == (False, True)


@pytest.mark.parametrize(
    ("text", "protocol", "message"),
    [
        ("3des-sha1-modp1024", Protocol.IKE, r"unknown algorithm '3des'.*there are aes128gcm16.*modp4096"),
        ("null-sha256", Protocol.ESP, "unknown algorithm 'null'"),
        ("aes256-md5-modp2048", Protocol.IKE, "unknown algorithm 'md5'"),
        ("aes192-sha256-x25519", Protocol.IKE, "unknown algorithm 'aes192'"),
        ("", Protocol.IKE, "unknown algorithm ''"),
        ("aes256gcm16--x25519", Protocol.IKE, "unknown algorithm ''"),
        ("sha256-x25519", Protocol.IKE, "no encryption algorithm"),
        ("aes256gcm16-aes256-sha256-x25519", Protocol.IKE, "mixes AEAD and CBC.*two proposals"),
        ("aes256gcm16-sha256-x25519", Protocol.IKE, "leave out sha256 or, for the PRF, write prfsha256"),
        ("aes256gcm16-sha256", Protocol.ESP, "takes no integrity"),
        ("aes256-x25519", Protocol.IKE, "needs an integrity algorithm"),
        ("aes256", Protocol.ESP, "needs an integrity algorithm"),
        ("aes256gcm16-x25519", Protocol.IKE, "needs a PRF named, for example prfsha256"),
        ("aes256gcm16-prfsha256", Protocol.IKE, "names no key exchange group"),
        ("aes256gcm16-prfsha256", Protocol.ESP, "'prfsha256'.*has no PRF"),
        ("aes256gcm16-prfsha256-x25519-esn", Protocol.IKE, "'esn'.*leave it out"),
    ],
)
def test_errors_name_the_word_and_the_remedy(text: str, protocol: Protocol, message: str) -> None:
    with pytest.raises(ProposalError, match=message):
        parse_proposal(text, protocol)


def test_defaults_are_modern_and_read_back() -> None:
    assert [t.encryptions[0].aead for t in DEFAULT_IKE_PROPOSALS] == [True, False]
    assert all(t.groups[0].name == "x25519" for t in DEFAULT_IKE_PROPOSALS)
    assert acceptable_groups(DEFAULT_IKE_PROPOSALS) == acceptable_groups(DEFAULT_IKE_PROPOSALS[:1])
    for t in (*DEFAULT_IKE_PROPOSALS, *DEFAULT_ESP_PROPOSALS):
        assert parse_proposal(t.name, t.protocol) == t


# --- the wire -----------------------------------------------------------------------------------------------


def test_what_is_offered() -> None:
    sa = offer(ike("aes256gcm16-prfsha256-x25519", "aes256-sha512-ecp256-modp2048"), b"")
    assert sa == SecurityAssociation(
        (
            Proposal(1, Protocol.IKE, b"", (GCM256, Transform(PRF, 5), Transform(KE, 31))),
            Proposal(
                2,
                Protocol.IKE,
                b"",
                (CBC256, Transform(PRF, 7), Transform(INTEG, 14), Transform(KE, 19), Transform(KE, 14)),
            ),
        )
    )
    sa = offer(esp("chacha20poly1305-x25519-esn-noesn"), ESP_SPI)
    assert sa.proposals[0].transforms == (
        Transform(ENCR, 28),
        Transform(KE, 31),
        Transform(ESN, 1),
        Transform(ESN, 0),
    )


def test_without_groups_what_is_the_same_is_offered_once() -> None:
    assert len(offer(DEFAULT_ESP_PROPOSALS, ESP_SPI).proposals) == 4
    sa = offer(DEFAULT_ESP_PROPOSALS, ESP_SPI, with_group=False)
    assert [p.number for p in sa.proposals] == [1, 2]
    assert all(t.type != KE for p in sa.proposals for t in p.transforms)


# --- the responder's choice ---------------------------------------------------------------------------------


def test_the_local_order_of_templates_then_of_transforms_decides() -> None:
    peer = offer(ike("aes128-sha256-modp2048", "aes128gcm16-aes256gcm16-prfsha256-ecp256-x25519"), b"")
    chosen = select_ike(
        peer, ike("aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256", "aes128-sha256-modp2048")
    )
    assert chosen is not None
    assert (chosen.number, chosen.suite.name) == (2, "aes256gcm16-prfsha256-x25519")


def test_the_peers_order_of_proposals_comes_after() -> None:
    peer = offer(ike("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-x25519"), b"")
    chosen = select_ike(peer, ike("aes256gcm16-aes128gcm16-prfsha256-x25519"))
    assert chosen is not None
    assert (chosen.number, chosen.suite.encryption.name) == (1, "aes128gcm16")


def test_the_peers_ke_group_is_taken_where_it_is_acceptable() -> None:
    ours = ike("aes256gcm16-prfsha256-x25519-ecp256", "aes256-sha256-modp2048")
    peer = offer(ike("aes256gcm16-prfsha256-x25519-ecp256-modp2048", "aes256-sha256-modp2048"), b"")
    names = {}
    for prefer in (None, 19, 31, 14, 99):
        chosen = select_ike(peer, ours, prefer_group=prefer)
        assert chosen is not None
        names[prefer] = chosen.suite.name
    assert names[19] == "aes256gcm16-prfsha256-ecp256"
    # A group that only a lesser template has does not buy that template.
    assert names[None] == names[31] == names[14] == names[99] == "aes256gcm16-prfsha256-x25519"


def test_the_preferred_group_reaches_over_the_peers_proposals() -> None:
    peer = offer(ike("aes256gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-ecp256"), b"")
    chosen = select_ike(peer, ike("aes256gcm16-prfsha256-x25519-ecp256"), prefer_group=19)
    assert chosen is not None
    assert (chosen.number, chosen.suite.group.name) == (2, "ecp256")


def test_nothing_in_common_is_none() -> None:
    peer = offer(ike("aes256gcm16-prfsha256-x25519"), b"")
    for ours in (
        "aes128gcm16-prfsha256-x25519",
        "aes256gcm16-prfsha384-x25519",
        "aes256gcm16-prfsha256-ecp256",
        "aes256-sha256-x25519",
    ):
        assert select_ike(peer, ike(ours)) is None
    assert select_esp(peer, esp("aes256gcm16"), with_group=False) is None
    assert select_ike(peer, ()) is None
    assert select_ike(offer(esp("aes256gcm16"), ESP_SPI), ike("aes256gcm16-prfsha256-x25519")) is None


def test_integrity_none_with_an_aead_is_tolerated_and_answered_in_kind() -> None:
    base = (GCM256, Transform(PRF, 5), Transform(KE, 31))
    ours = ike("aes256gcm16-prfsha256-x25519")
    chosen = select_ike(ike_sa(*base, Transform(INTEG, 0)), ours)
    assert chosen is not None
    assert Transform(INTEG, 0) in chosen.wire.transforms
    assert check_ike_response(offer(ours, b""), ike_sa(*base, Transform(INTEG, 0))) == chosen.suite
    # An AEAD with real integrity algorithms and no NONE can't be answered.
    assert select_ike(ike_sa(*base, Transform(INTEG, 12)), ours) is None
    assert select_ike(ike_sa(*base, Transform(INTEG, 12), Transform(INTEG, 0)), ours) == replace(
        chosen, wire=replace(chosen.wire, transforms=(*base, Transform(INTEG, 0)))
    )


def test_esn_may_be_left_out_and_must_be_one_that_we_have() -> None:
    for ours, theirs, esn in (
        ("aes256gcm16", (), False),
        ("aes256gcm16", (0,), False),
        ("aes256gcm16-esn-noesn", (0, 1), True),
        ("aes256gcm16-noesn-esn", (1, 0), False),
        ("aes256gcm16-esn-noesn", (0,), False),
        ("aes256gcm16-esn", (0,), None),
        ("aes256gcm16-esn", (), None),
        ("aes256gcm16", (1,), None),
        ("aes256gcm16", (7,), None),
    ):
        chosen = select_esp(esp_sa(GCM256, *(Transform(ESN, i) for i in theirs)), esp(ours), with_group=False)
        assert (None if chosen is None else chosen.suite.esn) == esn, (ours, theirs)


def test_groups_of_child_sas() -> None:
    def chosen_group(ours: str, theirs: tuple[int, ...], with_group: bool) -> object:
        peer = esp_sa(GCM256, *(Transform(KE, i) for i in theirs), Transform(ESN, 0))
        chosen = select_esp(peer, esp(ours), with_group=with_group)
        return "no" if chosen is None else chosen.suite.group and chosen.suite.group.name

    assert chosen_group("aes256gcm16-x25519", (31,), with_group=True) == "x25519"
    assert chosen_group("aes256gcm16-x25519", (), with_group=True) == "no"
    assert chosen_group("aes256gcm16", (31,), with_group=True) == "no"
    assert chosen_group("aes256gcm16", (31, 0), with_group=True) is None
    assert chosen_group("aes256gcm16", (), with_group=True) is None
    assert chosen_group("aes256gcm16-x25519", (0,), with_group=True) == "no"
    # In IKE_AUTH groups mean nothing, whoever writes them.
    assert chosen_group("aes256gcm16-x25519", (), with_group=False) is None
    assert chosen_group("aes256gcm16", (31,), with_group=False) is None


def test_the_default_takes_peers_with_and_without_forward_secrecy() -> None:
    for theirs, group in (("aes256gcm16", None), ("aes256gcm16-ecp256", "ecp256"), ("aes128-sha256", None)):
        chosen = select_esp(offer(esp(theirs), ESP_SPI), DEFAULT_ESP_PROPOSALS, with_group=True)
        assert chosen is not None
        assert (chosen.suite.group.name if chosen.suite.group else None) == group


@pytest.mark.parametrize(
    "transforms",
    [
        (Transform(ENCR, 20), Transform(ESN, 0)),  # no key length
        (Transform(ENCR, 20, (Attribute(14, 192),)), Transform(ESN, 0)),
        (Transform(ENCR, 20, (Attribute(14, 256), Attribute(14, 256))), Transform(ESN, 0)),
        (Transform(ENCR, 20, (Attribute(14, 256), Attribute(99, 1))), Transform(ESN, 0)),
        (Transform(ENCR, 20, (Attribute(14, b"\x01\x00"),)), Transform(ESN, 0)),
        (Transform(ENCR, 11), Transform(INTEG, 12), Transform(ESN, 0)),  # null encryption
        (GCM256, Transform(ESN, 0, (Attribute(99, 1),))),
        (GCM256, Transform(ESN, 0), Transform(77, 1)),  # an unknown type
        (GCM256, Transform(ESN, 0), Transform(PRF, 5)),  # a type that ESP has not
        (GCM256, Transform(INTEG, 999), Transform(ESN, 0)),
        (CBC256, Transform(ESN, 0)),  # no integrity
        (CBC256, Transform(INTEG, 0), Transform(ESN, 0)),
        (CBC256, Transform(INTEG, 2), Transform(ESN, 0)),  # HMAC-SHA-1-96
        (),
    ],
)
def test_what_can_not_be_understood_or_is_weak_is_not_chosen(transforms: tuple[Transform, ...]) -> None:
    ours = (*DEFAULT_ESP_PROPOSALS, *esp("aes128gcm16-aes256gcm16-chacha20poly1305-esn-noesn"))
    assert select_esp(esp_sa(*transforms), ours, with_group=False) is None


def test_an_unknown_algorithm_beside_a_known_one_is_passed_over() -> None:
    peer = ike_sa(
        Transform(ENCR, 999, (Attribute(14, 256),)),
        Transform(ENCR, 28, (Attribute(14, 256),)),  # ChaCha20-Poly1305 must have no key length
        GCM256,
        Transform(PRF, 999),
        Transform(PRF, 5),
        Transform(KE, 35),
        Transform(KE, 31),
    )
    chosen = select_ike(peer, DEFAULT_IKE_PROPOSALS)
    assert chosen is not None
    assert chosen.wire.transforms == (GCM256, Transform(PRF, 5), Transform(KE, 31))


# --- the initiator's check ----------------------------------------------------------------------------------

OFFERED = ike("aes256gcm16-prfsha256-x25519-ecp256", "aes256-sha256-modp2048")


@pytest.mark.parametrize(
    ("transforms", "number", "reason"),
    [
        ((GCM256, Transform(PRF, 5), Transform(KE, 31)), 2, "not offered"),
        ((GCM256, Transform(PRF, 5), Transform(KE, 31)), 3, "proposal 3, which was not offered"),
        ((GCM256, Transform(PRF, 6), Transform(KE, 31)), 1, "not offered"),
        ((GCM256, Transform(PRF, 5), Transform(KE, 14)), 1, "not offered"),
        ((GCM256, Transform(PRF, 5), Transform(KE, 31), Transform(KE, 19)), 1, "two transforms"),
        ((GCM256, GCM256, Transform(PRF, 5), Transform(KE, 31)), 1, "two transforms"),
        ((GCM256, Transform(PRF, 5)), 1, "leaves out transform type 4"),
        ((Transform(PRF, 5), Transform(KE, 31)), 1, "leaves out transform type 1"),
        ((GCM256, Transform(PRF, 5), Transform(KE, 31), Transform(INTEG, 12)), 1, "not offered"),
        ((CBC256, Transform(PRF, 5), Transform(INTEG, 0), Transform(KE, 14)), 2, "wrong kind"),
        ((CBC256, Transform(PRF, 5), Transform(KE, 14)), 2, "leaves out transform type 3"),
        ((GCM256, Transform(PRF, 5), Transform(KE, 31), Transform(ESN, 0)), 1, "not offered"),
        (
            (Transform(ENCR, 20, (Attribute(14, 128),)), Transform(PRF, 5), Transform(KE, 31)),
            1,
            "not offered",
        ),
    ],
)
def test_answers_that_were_not_offered(transforms: tuple[Transform, ...], number: int, reason: str) -> None:
    with pytest.raises(ProposalError, match=reason):
        check_ike_response(offer(OFFERED, b""), ike_sa(*transforms, number=number))


def test_an_answer_is_exactly_one_proposal_of_the_protocol() -> None:
    sa = offer(OFFERED, b"")
    with pytest.raises(ProposalError, match="0 proposals"):
        check_ike_response(sa, SecurityAssociation(()))
    with pytest.raises(ProposalError, match="2 proposals"):
        check_ike_response(sa, sa)
    with pytest.raises(ProposalError, match="not offered"):
        check_ike_response(sa, esp_sa(GCM256, Transform(ESN, 0)))
    with pytest.raises(ProposalError, match="not offered"):
        check_esp_response(sa, ike_sa(GCM256, Transform(PRF, 5), Transform(KE, 31)))


def test_an_esp_answer_may_leave_out_the_ordinary_sequence_numbers() -> None:
    chosen = check_esp_response(offer(esp("aes256gcm16"), ESP_SPI), esp_sa(GCM256))
    assert (chosen.suite.name, chosen.spi) == ("aes256gcm16", ESP_SPI)
    with pytest.raises(ProposalError, match="leaves out transform type 5"):
        check_esp_response(offer(esp("aes256gcm16-esn"), ESP_SPI), esp_sa(GCM256))


# --- properties ---------------------------------------------------------------------------------------------


def some(values: Iterable[Encryption | Integrity | Prf | Group]) -> st.SearchStrategy[list[str]]:
    names = sorted({v.name for v in values})
    return st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)


AEADS = some(e for e in ENCRYPTIONS.values() if e.aead)
CBCS = some(e for e in ENCRYPTIONS.values() if not e.aead)
ESN_WORDS = st.lists(st.sampled_from(["esn", "noesn"]), max_size=2, unique=True)


def joined(*parts: st.SearchStrategy[list[str]]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda lists: "-".join(word for words in lists for word in words))


IKE_TEXTS = joined(AEADS, some(PRFS.values()), some(GROUPS.values())) | joined(
    CBCS, some(INTEGRITIES.values()), some(GROUPS.values())
)
MAYBE_GROUPS: st.SearchStrategy[list[str]] = st.just([]) | some(GROUPS.values())
ESP_TEXTS = joined(AEADS, MAYBE_GROUPS, ESN_WORDS) | joined(
    CBCS, some(INTEGRITIES.values()), MAYBE_GROUPS, ESN_WORDS
)


@given(IKE_TEXTS | ESP_TEXTS, st.sampled_from([Protocol.IKE, Protocol.ESP]))
def test_names_read_back(text: str, protocol: Protocol) -> None:
    try:
        template = parse_proposal(text, protocol)
    except ProposalError:
        return
    assert parse_proposal(template.name, protocol) == template
    sa = offer([template], ESP_SPI if protocol == Protocol.ESP else b"")
    assert SecurityAssociation.decode_body(Cursor(sa.encode_body(), "SA")) == sa


@given(st.lists(IKE_TEXTS, min_size=1, max_size=3), st.lists(IKE_TEXTS, min_size=1, max_size=3), st.data())
def test_an_ike_choice_is_within_both_sides_sets(
    ours: list[str], theirs: list[str], data: st.DataObject
) -> None:
    prefer = data.draw(st.none() | st.sampled_from([g.transform_id for g in GROUPS.values()]))
    peer, local = ike(*theirs), ike(*ours)
    sa = offer(peer, b"")
    chosen = select_ike(sa, local, prefer)
    if chosen is None:
        for candidate in local:
            for other in peer:
                kinds = ("encryptions", "prfs", "groups") + (
                    ("integrities",) if candidate.integrities else ()
                )
                assert any(not set(getattr(candidate, k)) & set(getattr(other, k)) for k in kinds)
        return
    s = chosen.suite
    mine = [t for t in local if s.encryption in t.encryptions and s.prf in t.prfs and s.group in t.groups]
    assert any(s.integrity is None or s.integrity in t.integrities for t in mine)
    wire = sa.proposals[chosen.number - 1]
    assert set(chosen.wire.transforms) <= set(wire.transforms)
    assert {t.type for t in chosen.wire.transforms} == {t.type for t in wire.transforms}
    assert check_ike_response(sa, chosen.answer()) == s


@given(
    st.lists(ESP_TEXTS, min_size=1, max_size=3),
    st.lists(ESP_TEXTS, min_size=1, max_size=3),
    st.booleans(),
)
def test_an_esp_choice_is_within_both_sides_sets(
    ours: list[str], theirs: list[str], with_group: bool
) -> None:
    peer, local = esp(*theirs), esp(*ours)
    sa = offer(peer, ESP_SPI, with_group)
    chosen = select_esp(sa, local, with_group)
    if chosen is None:
        return
    s = chosen.suite
    for side in (local, peer):
        assert any(
            s.encryption in t.encryptions
            and (s.integrity is None or s.integrity in t.integrities)
            and s.esn in t.esn
            and (not with_group or (s.group in t.groups if s.group else not t.groups))
            for t in side
        )
    assert with_group or s.group is None
    assert chosen.spi == ESP_SPI
    answered = check_esp_response(sa, chosen.answer(b"\x01\x01\x01\x01"))
    assert (answered.suite, answered.spi) == (s, b"\x01\x01\x01\x01")


@given(st.lists(ESP_TEXTS, min_size=1, max_size=3), st.booleans())
def test_one_always_accepts_ones_own_offer(texts: list[str], with_group: bool) -> None:
    templates = esp(*texts)
    chosen = select_esp(offer(templates, ESP_SPI, with_group), templates, with_group)
    assert chosen is not None
    assert chosen.suite.encryption == templates[0].encryptions[0]


TRANSFORMS = st.builds(
    Transform,
    st.integers(0, 7),
    st.sampled_from([0, 1, 5, 7, 12, 14, 19, 20, 28, 31, 999]),
    st.lists(
        st.builds(Attribute, st.sampled_from([14, 99]), st.sampled_from([128, 256, 192])), max_size=2
    ).map(tuple),
)
PROPOSALS = st.builds(
    Proposal,
    st.integers(0, 3),
    st.sampled_from([1, 2, 3]),
    st.just(ESP_SPI),
    st.lists(TRANSFORMS, max_size=8).map(tuple),
)
ASSOCIATIONS = st.lists(PROPOSALS, max_size=3).map(lambda p: SecurityAssociation(tuple(p)))


@given(ASSOCIATIONS, ASSOCIATIONS)
def test_any_peers_sa_gives_a_choice_or_none_and_any_answer_a_suite_or_an_error(
    sa: SecurityAssociation, other: SecurityAssociation
) -> None:
    chosen = select_ike(sa, DEFAULT_IKE_PROPOSALS, 31)
    assert chosen is None or chosen.suite.prf.transform_id in (5, 6, 7)
    selected = select_esp(sa, DEFAULT_ESP_PROPOSALS, with_group=True)
    assert selected is None or len({t.type for t in selected.wire.transforms}) == len(
        selected.wire.transforms
    )
    for check in (check_ike_response, check_esp_response):
        for offered in (sa, offer(DEFAULT_IKE_PROPOSALS, b""), offer(DEFAULT_ESP_PROPOSALS, ESP_SPI)):
            try:
                check(offered, other)
            except ProposalError:
                continue
            (answer,) = other.proposals
            assert any(answer.number == p.number and answer.protocol == p.protocol for p in offered.proposals)
