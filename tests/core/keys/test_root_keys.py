from typing import Any

import pytest

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
    ],
)
def test_error_names_the_invalid_field_but_not_its_value(fields: dict[str, str], field: str) -> None:
    with pytest.raises(RootKeyRefused) as refused:
        parse_place(fields)
    assert refused.value.message.startswith(f"{field}: ")
    assert SECRET not in f"{refused.value!r} {refused.value.message} {refused.value.hint}"


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
