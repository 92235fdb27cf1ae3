"""Lines of Wireshark's `ikev2_decryption_table` and `esp_sa`, to read a capture of our own traffic.

The files go into a Wireshark profile (or the directory that WIRESHARK_CONFIG_DIR names); ESP needs
`-o esp.enable_encryption_decode:TRUE` besides. Names tried out with tshark 4.0.17, columns of that version:

    ikev2_decryption_table   SPIi, SPIr, SK_ei, SK_er, encryption, SK_ai, SK_ar, integrity
    esp_sa                   protocol, source, destination, SPI, encryption, key, integrity, key

    ours                  in ikev2_decryption_table                  in esp_sa
    aes128gcm16           AES-GCM-128 with 16 octet ICV [RFC5282]    AES-GCM with 16 octet ICV [RFC4106]
    aes256gcm16           AES-GCM-256 with 16 octet ICV [RFC5282]    AES-GCM with 16 octet ICV [RFC4106]
    aes128                AES-CBC-128 [RFC3602]                      AES-CBC [RFC3602]
    aes256                AES-CBC-256 [RFC3602]                      AES-CBC [RFC3602]
    chacha20poly1305      none                                       none
    sha256                HMAC_SHA2_256_128 [RFC4868]                HMAC-SHA-256-128 [RFC4868]
    sha384                HMAC_SHA2_384_192 [RFC4868]                HMAC-SHA-384-192 [RFC4868]
    sha512                HMAC_SHA2_512_256 [RFC4868]                HMAC-SHA-512-256 [RFC4868]

An AEAD's key is key | salt in both tables, its integrity "NONE [RFC4306]" and "NULL". With
ChaCha20-Poly1305 there is no line: a name that the table does not know makes Wireshark refuse the file.
It has no column for extended sequence numbers either: it decrypts such packets, but calls their ICV wrong.
"""

from collections.abc import Mapping
from types import MappingProxyType

from deadpeer.crypto import Encryption, EspKeys, EspSuite, IkeKeys, IkeSuite

_IKE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "aes128gcm16": "AES-GCM-128 with 16 octet ICV [RFC5282]",
        "aes256gcm16": "AES-GCM-256 with 16 octet ICV [RFC5282]",
        "aes128": "AES-CBC-128 [RFC3602]",
        "aes256": "AES-CBC-256 [RFC3602]",
        "sha256": "HMAC_SHA2_256_128 [RFC4868]",
        "sha384": "HMAC_SHA2_384_192 [RFC4868]",
        "sha512": "HMAC_SHA2_512_256 [RFC4868]",
    }
)
_ESP_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "aes128gcm16": "AES-GCM with 16 octet ICV [RFC4106]",
        "aes256gcm16": "AES-GCM with 16 octet ICV [RFC4106]",
        "aes128": "AES-CBC [RFC3602]",
        "aes256": "AES-CBC [RFC3602]",
        "sha256": "HMAC-SHA-256-128 [RFC4868]",
        "sha384": "HMAC-SHA-384-192 [RFC4868]",
        "sha512": "HMAC-SHA-512-256 [RFC4868]",
    }
)
_IKE_NO_INTEGRITY = "NONE [RFC4306]"
_ESP_NO_INTEGRITY = "NULL"


def ike_line(spi_i: bytes, spi_r: bytes, suite: IkeSuite, keys: IkeKeys) -> str | None:
    """The line of `ikev2_decryption_table` for an IKE SA, without a newline.

    `spi_i` and `spi_r` are 8 octets each. None where Wireshark knows no name for the cipher.
    """
    if not _known(suite.encryption):
        return None
    integrity = _IKE_NAMES[suite.integrity.name] if suite.integrity else _IKE_NO_INTEGRITY
    fields = (
        spi_i.hex(),
        spi_r.hex(),
        keys.sk_ei.hex(),
        keys.sk_er.hex(),
        f'"{_IKE_NAMES[suite.encryption.name]}"',
        keys.sk_ai.hex(),
        keys.sk_ar.hex(),
        f'"{integrity}"',
    )
    return ",".join(fields)


def esp_line(source: str, destination: str, spi: int, suite: EspSuite, keys: EspKeys) -> str | None:
    """The line of `esp_sa` for one direction of a child SA, without a newline.

    `source` and `destination` are the outer addresses of the packets that carry `spi` (host order).
    None where Wireshark knows no name for the cipher.
    """
    if not _known(suite.encryption):
        return None
    integrity = _ESP_NAMES[suite.integrity.name] if suite.integrity else _ESP_NO_INTEGRITY
    fields = (
        "IPv6" if ":" in source else "IPv4",
        source,
        destination,
        f"0x{spi:08x}",
        _ESP_NAMES[suite.encryption.name],
        _hex(keys.encryption_key + keys.salt),
        integrity,
        _hex(keys.integrity_key),
    )
    return ",".join(f'"{field}"' for field in fields)


def _known(encryption: Encryption) -> bool:
    return encryption.name in _IKE_NAMES


def _hex(key: bytes) -> str:
    return f"0x{key.hex()}" if key else ""
