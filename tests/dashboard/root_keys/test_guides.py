"""The fields of each provider match `root_keys`, and the shown commands and policies are valid."""

import json

import pytest

from core.keys.root_keys import AwsKmsKeyRef, Credentials, OpenBaoKeyRef, Pkcs11KeyRef, PlatformKeyRef, RootKeyMode
from dashboard.root_keys.guides import ENTRIES, NAMES, blocks, in_labels

PLACES = {
    RootKeyMode.PLATFORM: PlatformKeyRef,
    RootKeyMode.AWS_KMS: AwsKmsKeyRef,
    RootKeyMode.PKCS11: Pkcs11KeyRef,
    RootKeyMode.OPENBAO: OpenBaoKeyRef,
}


@pytest.mark.parametrize("provider", list(RootKeyMode))
def test_every_field_has_an_input_and_every_credential_is_secret(provider: RootKeyMode) -> None:
    public = {entry.name for entry in ENTRIES[provider] if not entry.secret}
    assert public == set(PLACES[provider].model_fields) - {"provider"}
    assert {entry.name for entry in ENTRIES[provider] if entry.secret} <= set(Credentials.model_fields)
    assert len({entry.label for entry in ENTRIES[provider]}) == len(ENTRIES[provider])


def test_every_credential_belongs_to_a_provider() -> None:
    asked = {entry.name for entries in ENTRIES.values() for entry in entries if entry.secret}
    assert asked == set(Credentials.model_fields)
    assert set(NAMES) == set(RootKeyMode)


def test_the_aws_policies_are_json_with_external_id_and_role() -> None:
    role = "arn:aws:iam::111122223333:role/mine"
    trust, use = (
        json.loads(block.code)
        for block in blocks(RootKeyMode.AWS_KMS, "acme-corp-12345", {"role_arn": role})
        if block.code.startswith(("{", "["))
    )
    use, describe = use
    condition = trust["Statement"][0]["Condition"]
    assert condition == {"StringEquals": {"sts:ExternalId": "openkcm/acme-corp-12345"}}
    assert use["Principal"] == {"AWS": role}
    assert use["Action"] == ["kms:Encrypt", "kms:Decrypt"]
    assert use["Condition"] == {"StringEquals": {"kms:EncryptionContext:openkcm:tenant": "acme-corp-12345"}}
    # The request has no encryption context: under the condition it would always be denied.
    assert (describe["Action"], "Condition" in describe) == ("kms:DescribeKey", False)
    assert describe["Principal"] == use["Principal"]


def test_the_trusted_principal_is_filled_in_or_requested_from_the_operator() -> None:
    ours = "arn:aws:iam::999988887777:role/openkcm-platform"
    known, unknown = (blocks(RootKeyMode.AWS_KMS, "acme", {}, platform)[1] for platform in (ours, None))
    assert json.loads(known.code)["Statement"][0]["Principal"] == {"AWS": ours}
    assert "operator" not in known.words
    assert "ASK YOUR OPERATOR" in unknown.code
    assert "Ask your platform's operator" in unknown.words


def test_the_openbao_policy_names_the_entered_key_and_does_not_permit_create() -> None:
    [policy] = [
        block.code
        for block in blocks(RootKeyMode.OPENBAO, "acme", {"mount": "keys", "key": "mine"})
        if block.code.startswith("path")
    ]
    assert 'path "keys/encrypt/mine" { capabilities = ["update"] }' in policy
    assert "create" not in policy


@pytest.mark.parametrize("provider", list(RootKeyMode))
def test_the_preparation_steps_need_no_input(provider: RootKeyMode) -> None:
    assert all(block.words.endswith(".") for block in blocks(provider, "acme", {}))


def test_an_error_names_the_label_of_the_field() -> None:
    said = in_labels(RootKeyMode.AWS_KMS, "key_arn: Field required")
    assert said == "Key ARN: required"
    assert in_labels(RootKeyMode.OPENBAO, "address: an address such as x") == "Address: an address such as x"
    assert in_labels(RootKeyMode.AWS_KMS, "aws-kms needs a b") == "aws-kms needs a b"
    assert in_labels(RootKeyMode.AWS_KMS, "other: b") == "other: b"
