"""The file of public keys; a signature counts only in its canonical encoding, for one content and the named key."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from openkcm.errors import PublicKeyRefused
from openkcm.verification.public_keys import PublicKeys
from tests.database.signing import Signer

ONE, TWO = Signer("audit-checkpoints:1"), Signer("audit-checkpoints:2")
BOTH = PublicKeys(ONE.public_keys() | TWO.public_keys())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def pem_of(public) -> str:
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_key_file_is_read_back_with_names_and_fingerprints():
    read = PublicKeys.read(BOTH.file())
    assert [(one.name, one.fingerprint) for one in read.all()] == [(one.name, one.fingerprint) for one in BOTH.all()]
    assert read.file() == BOTH.file()


@pytest.mark.integration  # runs openssl
def test_fingerprint_equals_that_of_openssl(tmp_path: Path):
    file = tmp_path / "keys.pem"
    file.write_text(BOTH.file())
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", file, "-outform", "DER"], capture_output=True, check=True
    ).stdout
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=der, capture_output=True, check=True).stdout
    assert digest.decode().split()[0] == BOTH.fingerprint("audit-checkpoints:1")


def test_each_version_verifies_only_its_own_signatures():
    for signer in (ONE, TWO):
        signature, name = signer.sign(b"head")
        assert BOTH.check(name, b"head", signature).problem is None
        assert BOTH.check(name, b"other", signature).problem is not None
    signature, _ = ONE.sign(b"head")
    checked = BOTH.check("audit-checkpoints:2", b"head", signature)
    assert (checked.problem, checked.fingerprint) == (
        "the signature does not match this content and public key",
        BOTH.fingerprint("audit-checkpoints:2"),
    )


def test_unknown_key_name_is_reported_without_control_characters():
    signature, _ = ONE.sign(b"head")
    assert "audit-checkpoints:1, audit-checkpoints:2" in (BOTH.check("\x1b[31m", b"head", signature).problem or "")
    assert "\x1b" not in (BOTH.check("\x1b[31m", b"head", signature).problem or "")


def test_pem_without_a_name_matches_every_key_name():
    signature, name = ONE.sign(b"head")
    bare = PublicKeys.read(ONE.public_keys()[name])
    assert bare.check(name, b"head", signature).problem is None
    assert bare.check(name, b"head", TWO.sign(b"head")[0]).problem is not None


def test_only_the_canonical_encoding_of_a_signature_is_accepted():
    signature, name = ONE.sign(b"head")
    der = base64.b64decode(signature)
    r, s = decode_dss_signature(der)
    longer = b"\x30\x81" + der[1:]  # the same length, encoded in two bytes
    others = [
        f" {signature}",
        f"{signature}\n",
        signature.rstrip("=") + "=" * 4,
        base64.b64encode(der + b"\0").decode(),
        base64.b64encode(longer).decode(),
        "QR==",  # decodes, and encodes again as QQ==
        base64.b64encode(encode_dss_signature(r + ORDER, s)).decode(),
        "",
        "ß",
        "\ud800",
    ]
    for other in others:
        assert BOTH.check(name, b"head", other).problem is not None


def test_each_changed_character_of_a_signature_is_rejected():
    signature, name = ONE.sign(b"head")
    for place, letter in enumerate(signature):
        for bit in range(7):
            changed = signature[:place] + chr(ord(letter) ^ 1 << bit) + signature[place + 1 :]
            assert BOTH.check(name, b"head", changed).problem is not None


RSA = rsa.generate_private_key(65537, 2048)
PRIVATE = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


REFUSED = {
    "nothing": "",
    "a name without a key": "key: audit-checkpoints:1\n",
    "a private key": PRIVATE.decode(),
    "RSA": pem_of(RSA.public_key()),
    "another curve": pem_of(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "a damaged key": ONE.public_keys()["audit-checkpoints:1"].replace("M", "N"),
    "two without a name": ONE.public_keys()["audit-checkpoints:1"] * 2,
    "two of one name": BOTH.file() + BOTH.file(),
    "another fingerprint": BOTH.file().replace(
        BOTH.fingerprint("audit-checkpoints:1"), BOTH.fingerprint("audit-checkpoints:2")
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_invalid_key_file_is_rejected(what: str):
    with pytest.raises(PublicKeyRefused):
        PublicKeys.read(REFUSED[what])


def test_unreadable_stored_key_is_left_out():
    assert PublicKeys.from_database({"audit:1": "x"} | ONE.public_keys()).file() == PublicKeys(ONE.public_keys()).file()
