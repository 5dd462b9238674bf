"""What is asked of a customer for each provider is what `root_keys` takes, and what is shown can be pasted."""

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
def test_every_field_of_a_place_can_be_typed_and_every_credential_is_a_secret(provider: RootKeyMode) -> None:
    public = {entry.name for entry in ENTRIES[provider] if not entry.secret}
    assert public == set(PLACES[provider].model_fields) - {"provider"}
    assert {entry.name for entry in ENTRIES[provider] if entry.secret} <= set(Credentials.model_fields)
    assert len({entry.label for entry in ENTRIES[provider]}) == len(ENTRIES[provider])


def test_every_credential_belongs_to_a_provider() -> None:
    asked = {entry.name for entries in ENTRIES.values() for entry in entries if entry.secret}
    assert asked == set(Credentials.model_fields)
    assert set(NAMES) == set(RootKeyMode)


def test_the_policies_of_aws_are_json_and_name_the_external_id_and_the_role() -> None:
    role = "arn:aws:iam::111122223333:role/mine"
    trust, use = (
        json.loads(block.code)
        for block in blocks(RootKeyMode.AWS_KMS, "acme-corp-12345", {"role_arn": role})
        if block.language == "json"
    )
    use, look = use
    condition = trust["Statement"][0]["Condition"]
    assert condition == {"StringEquals": {"sts:ExternalId": "openkcm/acme-corp-12345"}}
    assert use["Principal"] == {"AWS": role}
    assert use["Action"] == ["kms:Encrypt", "kms:Decrypt"]
    assert use["Condition"] == {"StringEquals": {"kms:EncryptionContext:openkcm:tenant": "acme-corp-12345"}}
    # It carries no encryption context: under the condition it would never be allowed.
    assert (look["Action"], "Condition" in look) == ("kms:DescribeKey", False)
    assert look["Principal"] == use["Principal"]


def test_whom_a_role_trusts_is_filled_in_or_the_operator_is_to_be_asked() -> None:
    ours = "arn:aws:iam::999988887777:role/openkcm-platform"
    known, unknown = (blocks(RootKeyMode.AWS_KMS, "acme", {}, platform)[1] for platform in (ours, None))
    assert json.loads(known.code)["Statement"][0]["Principal"] == {"AWS": ours}
    assert "operator" not in known.words
    assert "ASK YOUR OPERATOR" in unknown.code
    assert "Ask your platform's operator" in unknown.words


def test_the_policy_of_openbao_is_for_the_key_that_was_typed_and_creates_none() -> None:
    [policy] = [
        block.code
        for block in blocks(RootKeyMode.OPENBAO, "acme", {"mount": "keys", "key": "mine"})
        if block.language == "hcl"
    ]
    assert 'path "keys/encrypt/mine" { capabilities = ["update"] }' in policy
    assert "create" not in policy


@pytest.mark.parametrize("provider", list(RootKeyMode))
def test_nothing_typed_is_needed_to_be_told_what_to_do_first(provider: RootKeyMode) -> None:
    assert all(block.words.endswith(".") for block in blocks(provider, "acme", {}))


def test_a_refusal_names_the_field_as_a_person_sees_it() -> None:
    said = in_labels(RootKeyMode.AWS_KMS, "key_arn: Field required")
    assert said == "Key ARN: fill this in"
    assert in_labels(RootKeyMode.OPENBAO, "address: an address such as x") == "Address: an address such as x"
    assert in_labels(RootKeyMode.AWS_KMS, "aws-kms here needs a b") == "aws-kms here needs a b"
    assert in_labels(RootKeyMode.AWS_KMS, "other: b") == "other: b"
