import base64
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from core.errors.keys import RootKeyRefused
from core.keys.root_keys import (
    AwsKmsKeyRef,
    Credentials,
    OpenBaoKeyRef,
    Pkcs11KeyRef,
    PlatformKeyRef,
    credentials_context,
    external_id,
    key_policy_statements,
    parse_credentials,
    parse_place,
    probe_context,
    refuse_incomplete,
    trust_statement,
    version_context,
)

ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE = "arn:aws:iam::123456789012:role/openkcm"
PLACES = [
    PlatformKeyRef(),
    AwsKmsKeyRef(key_arn=ARN),
    AwsKmsKeyRef(key_arn=ARN, role_arn=ROLE),
    Pkcs11KeyRef(token="acme", key="root"),
    OpenBaoKeyRef(address="https://vault.example.com:8200/", key="root", role_id="openkcm"),
]
SECRET = "hunter2"


def _pem(content: bytes) -> str:
    encoded = base64.b64encode(content).decode()
    return f"-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_reference_is_unchanged_after_storage(place: Any) -> None:
    assert parse_place(place.model_dump(mode="json")) == place


def test_reference_name_is_the_name_at_the_provider() -> None:
    assert [place.name for place in PLACES[1:]] == [
        ARN,
        ARN,
        "acme/root",
        "https://vault.example.com:8200/transit/root",
    ]
    assert AwsKmsKeyRef(key_arn=ARN).region == "eu-west-1"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"provider": "unknown"}, "provider"),
        ({"provider": "aws-kms", "key_arn": "arn:aws:kms:eu-west-1:123456789012:alias/mine"}, "key_arn"),
        ({"provider": "aws-kms", "key_arn": ARN, "role_arn": "openkcm"}, "role_arn"),
        ({"provider": "aws-kms"}, "key_arn"),
        ({"provider": "pkcs11", "token": "acme", "key": "a\nb"}, "key"),
        ({"provider": "pkcs11", "token": "acme", "key": "root", "module": "/tmp/evil.so"}, "module"),
        ({"provider": "openbao", "address": "ftp://x", "key": "root"}, "address"),
        ({"provider": "openbao", "address": "https://user:hunter2@vault", "key": "root"}, "address"),
        ({"provider": "openbao", "address": "https://vault/?x=hunter2", "key": "root"}, "address"),
        ({"provider": "openbao", "address": "https://vault", "key": "../sys/seal"}, "key"),
        ({"provider": "openbao", "address": "https://vault", "key": "root", "mount": "transit/../sys"}, "mount"),
        ({"provider": "openbao", "address": "https://vault", "key": "root", "namespace": "a//b"}, "namespace"),
        ({"provider": "openbao", "address": "https://vault", "key": "root", "mount": "m" * 129}, "mount"),
        ({"provider": "openbao", "address": "https://vault", "key": "..", "role_id": "openkcm"}, "key"),
        ({"provider": "openbao", "address": "https://vault", "key": "root", "role_id": "a\0b"}, "role_id"),
        ({"provider": "pkcs11", "token": "acm\x85e", "key": "root"}, "token"),
        ({"provider": "aws-kms", "key_arn": ARN.replace("west-1", "west-\N{FULLWIDTH DIGIT ONE}")}, "key_arn"),
        ({"provider": "aws-kms", "key_arn": ARN, "role_arn": ROLE + "\N{LATIN SMALL LETTER E WITH ACUTE}"}, "role_arn"),
        *(
            ({"provider": "openbao", "address": address, "key": "root"}, "address")
            for address in (
                "https://bao.example.com:82000",
                "https://bao.example.com:0",
                "https://bao.example.com:port",
                "https://bao.example.com:\N{DEVANAGARI DIGIT NINE}",
                "https://bao.example.com/v1/transit",
                "https://bao.example.com?",
                "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
                "https://bao example.com",
                "https://bao\n.example.com",
                "https://bao\0.example.com",
                "https://bao..example.com",
                f"https://{'a' * 64}.example.com",
                f"https://{'a.' * 94}example.com",
                "https://[::1",
                "https://[1.2.3.4]",
                "https://[fe80::1%25eth0]",
                "https://@bao.example.com",
            )
        ),
        *(
            ({"provider": "openbao", "address": "https://bao.example.com", "key": "root", "ca_pem": pem}, "ca_pem")
            for pem in (
                "hunter2",
                "\N{LATIN SMALL LETTER U WITH DIAERESIS}",
                "\0",
                _pem(b"hunter2"),
                _pem(b"0"),
                _pem(b"0\x82\x01"),
                _pem(b"0\x02hunter2"),
                _pem(b"0\x00").replace("MAA=", "MA="),
            )
        ),
    ],
)
def test_error_names_the_invalid_field_but_not_its_value(fields: dict[str, str], field: str) -> None:
    with pytest.raises(RootKeyRefused) as refused:
        parse_place(fields)
    assert refused.value.message.startswith(f"{field}: ")
    assert SECRET not in f"{refused.value!r} {refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    "address",
    [
        "https://vault.example.com",
        "http://vault.internal:8200",
        "https://10.0.0.1:65535",
        "https://[2001:db8::1]:8200",
        "https://xn--bcher-kva.example",
        "https://vault_1",
    ],
)
def test_address_of_a_key_server_is_accepted(address: str) -> None:
    place = parse_place({"provider": "openbao", "address": f"{address}/", "key": "root"})
    assert isinstance(place, OpenBaoKeyRef)
    assert place.address == address


def test_reference_keeps_only_the_certificates_of_a_pem_text() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "customer CA")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin + timedelta(days=1))
    certificate = builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    place = OpenBaoKeyRef(address="https://vault", key="root", ca_pem=f"our CA\n{private}{certificate}{certificate}")
    assert place.ca_pem == certificate * 2
    assert parse_place(place.model_dump(mode="json")) == place
    with pytest.raises(RootKeyRefused, match="ca_pem: CA certificates in PEM, at most 32768 characters"):
        parse_place({**place.model_dump(mode="json"), "ca_pem": certificate * 80})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("access_key_id", f"AKIA{SECRET}\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
        ("access_key_id", f"AKIA\n{SECRET}"),
        ("secret_access_key", f"{SECRET}\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
        ("secret_access_key", f" {SECRET}"),
        ("pin", f"{SECRET}\0"),
        ("pin", SECRET * 40),
        ("token", f"{SECRET}\r\nX-Vault-Namespace: other"),
        ("token", f"{SECRET}\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
        ("secret_id", f"{SECRET}\n"),
        ("secret_id", f"{SECRET}\ud800"),
        ("other", SECRET),
    ],
)
def test_unusable_credential_is_rejected_by_name_and_never_quoted(field: str, value: str) -> None:
    with pytest.raises(RootKeyRefused) as refused:
        parse_credentials({field: value})
    assert refused.value.message.startswith(f"{field}: " if field != "other" else "the credentials have an unknown")
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def secret(**fields: str) -> Credentials:
    return Credentials.model_validate(fields)


KEYS = {"access_key_id": "AKIA", "secret_access_key": SECRET}
COMPLETE = [
    (PLACES[0], {}),
    (PLACES[1], KEYS),
    (PLACES[2], KEYS),
    (PLACES[2], {}),
    (PLACES[3], {"pin": SECRET}),
    (PLACES[4], {"secret_id": SECRET}),
    (OpenBaoKeyRef(address="https://vault", key="root"), {"token": SECRET}),
]


@pytest.mark.parametrize(("place", "fields"), COMPLETE)
def test_complete_credentials_are_accepted(place: Any, fields: dict[str, str]) -> None:
    refuse_incomplete(place, secret(**fields))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
@pytest.mark.parametrize(
    "fields", [KEYS, {"pin": SECRET}, {"token": SECRET}, {"secret_id": SECRET}, {}, {"access_key_id": "AKIA"}], ids=str
)
def test_other_credentials_are_rejected(place: Any, fields: dict[str, str]) -> None:
    if (place, fields) in COMPLETE:
        return
    with pytest.raises(RootKeyRefused) as refused:
        refuse_incomplete(place, secret(**fields))
    assert SECRET not in str(refused.value)


def test_only_dump_returns_credentials_as_text() -> None:
    credentials = secret(**KEYS)
    assert SECRET not in f"{credentials!r} {credentials} {credentials.model_dump()} {credentials.model_dump_json()}"
    assert Credentials.load(credentials.dump()) == credentials


@pytest.mark.parametrize("dumped", [b"", b"[]", b'{"pin": 1}', b'{"other": "x"}'])
def test_invalid_credentials_are_rejected_without_their_value(dumped: bytes) -> None:
    with pytest.raises(RootKeyRefused) as refused:
        Credentials.load(dumped)
    assert refused.value.__cause__ is None


def test_each_tenant_has_a_dedicated_external_id_and_contexts() -> None:
    assert external_id("acme") != external_id("beta")
    contexts = {
        make(tenant, key).encode()
        for make in (credentials_context, probe_context)
        for tenant in ("acme", "beta")
        for key in ("a" * 32, "b" * 32)
    }
    assert len(contexts) == 8


def test_version_context_is_separate_and_policies_name_the_tenant() -> None:
    assert version_context("acme") != version_context("beta") != probe_context("acme", "a" * 32)
    principal = "arn:aws:iam::123456789012:role/openkcm"
    use, look = key_policy_statements("acme", principal)
    assert use["Condition"] == {"StringEquals": {"kms:EncryptionContext:openkcm:tenant": "acme"}}
    assert look["Action"] == "kms:DescribeKey"
    trust = trust_statement("acme", principal)
    assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": external_id("acme")}}
