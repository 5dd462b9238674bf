"""The platform's public keys as a file, and the verification of signatures with them.

Checkpoints and erasure certificates are signed with ECDSA over P-256 and SHA-256. A file has one block for each version
of the key: its name and its fingerprint as lines before the PEM, where OpenSSL skips them (RFC 7468, 5.2). A file with
only a PEM is also accepted.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from openkcm.errors import PublicKeyRefused
from openkcm.verification.results import CheckedSignature

_BLOCK = re.compile(
    r"(?:^key: (?P<name>\S+)\n^fingerprint: (?P<fingerprint>[0-9a-f]{64})\n)?"
    r"^(?P<pem>-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+\n-----END PUBLIC KEY-----)\n?",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`name` is `name:version`; empty if the file does not state it."""

    name: str
    key: ec.EllipticCurvePublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key's DER form, for comparison by people."""
        der = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    @property
    def pem(self) -> str:
        """The key as text."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class PublicKeys:
    """The keys that a verifier trusts, by name."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Take PEM by name; an empty name matches every name in a signature. Raises PublicKeyRefused."""
        self._keys = {name: PublicKey(name, _loaded(pem)) for name, pem in keys.items()}

    @classmethod
    def read(cls, text: str) -> "PublicKeys":
        """Return the keys of a file.

        Raises:
            PublicKeyRefused: it has no key, two keys with one name, or a key that does not match its fingerprint.
        """
        keys: dict[str, str] = {}
        for block in _BLOCK.finditer(text.replace("\r\n", "\n")):
            name, fingerprint = block["name"] or "", block["fingerprint"]
            if name in keys:
                raise PublicKeyRefused("the file contains two keys with the same name")
            keys[name] = block["pem"]
            if fingerprint is not None and PublicKey(name, _loaded(block["pem"])).fingerprint != fingerprint:
                raise PublicKeyRefused(f"the key {name} does not match the fingerprint before it")
        if not keys:
            raise PublicKeyRefused
        return cls(keys)

    @classmethod
    def from_database(cls, keys: Mapping[str, str]) -> "PublicKeys":
        """Return the keys of the database; an unreadable key is left out and therefore verifies nothing."""
        readable = {}
        for name, pem in keys.items():
            with suppress(PublicKeyRefused):
                readable[name] = PublicKey(name, _loaded(pem)).pem
        return cls(readable)

    def all(self) -> tuple[PublicKey, ...]:
        """Return the keys in order of their versions."""
        return tuple(sorted(self._keys.values(), key=lambda one: (len(one.name), one.name)))

    def file(self) -> str:
        """Return the keys in the format of `read`."""
        return "".join(f"key: {one.name}\nfingerprint: {one.fingerprint}\n{one.pem}" for one in self.all())

    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of a key, empty for an unknown one."""
        key = self._keys.get(name)
        return "" if key is None else key.fingerprint

    def check(self, name: str, message: bytes, signature: str) -> CheckedSignature:
        """Return the result of a signature check; implements `openkcm.verification.results.SignatureCheck`."""
        key = self._keys.get(name) or self._keys.get("")
        if key is None:
            names = ", ".join(one.name for one in self.all()) or "none"
            problem = f"it was signed with the key {name!r}, and the known public keys are: {names}"
            return CheckedSignature(name, problem=problem, unknown_key=True)
        try:
            der = _canonical(signature)
            key.key.verify(der, message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return CheckedSignature(name, key.fingerprint, "the signature does not match this content and public key")
        return CheckedSignature(name, key.fingerprint)


def _canonical(signature: str) -> bytes:
    """Return the bytes of a canonical base64 text; raises ValueError for any other text."""
    try:
        found = base64.b64decode(signature.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError from None
    if base64.b64encode(found).decode() != signature:
        raise ValueError
    return found


def _loaded(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise PublicKeyRefused("the file contains an unreadable public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PublicKeyRefused("the file contains a public key that is not ECDSA over P-256")
    return key
