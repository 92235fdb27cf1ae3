"""Helpers of a message."""

from deadpeer.wire import Certificate, Encrypted, Message, Nonce, Notify, NotifyType, PayloadType, VendorId

FIRST, SECOND = Notify(NotifyType.QCD_TOKEN, b"1" * 16), Notify(NotifyType.QCD_TOKEN, b"2" * 16)
MESSAGE = Message(
    bytes(8), bytes(8), 37, 0, True, False, (VendorId(b"a"), FIRST, Notify(NotifyType.COOKIE), SECOND)
)


def test_payloads_by_class() -> None:
    assert MESSAGE.first(VendorId) == VendorId(b"a")
    assert MESSAGE.first(Nonce) is None
    assert MESSAGE.all(Notify) == (FIRST, Notify(NotifyType.COOKIE), SECOND)
    assert MESSAGE.all(Certificate) == ()


def test_notifies_by_type() -> None:
    assert MESSAGE.notify(NotifyType.QCD_TOKEN) == FIRST
    assert MESSAGE.notifies(NotifyType.QCD_TOKEN) == (FIRST, SECOND)
    assert MESSAGE.notify(NotifyType.REKEY_SA) is None
    assert MESSAGE.notifies(NotifyType.REKEY_SA) == ()


def test_errors_and_status() -> None:
    assert Notify(NotifyType.INVALID_SYNTAX).is_error
    assert Notify(16383).is_error
    assert not Notify(NotifyType.INITIAL_CONTACT).is_error
    assert Notify(NotifyType.INVALID_SYNTAX).name == "INVALID_SYNTAX"


def test_protected_is_the_last_payload_only() -> None:
    sealed = Encrypted(PayloadType.NONE, b"x")
    assert MESSAGE.protected is None
    assert Message(bytes(8), bytes(8), 37, 0, True, False, ()).protected is None
    assert Message(bytes(8), bytes(8), 37, 0, True, False, (VendorId(b""), sealed)).protected == sealed
