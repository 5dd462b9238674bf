"""What a customer's AWS account has to allow, word for word: shown beforehand, and named where it is missing."""

from typing import Any

from tenancy.root_keys import external_id


def key_policy_statements(tenant_id: str, principal: str) -> list[dict[str, Any]]:
    """Return the statements of a key policy that let `principal`, an ARN, use the key for this tenant alone.

    DescribeKey carries no encryption context, so that it stands apart from the two uses that do.
    """
    return [
        {
            "Sid": "OpenKcmRootKey",
            "Effect": "Allow",
            "Principal": {"AWS": principal},
            "Action": ["kms:Encrypt", "kms:Decrypt"],
            "Resource": "*",
            "Condition": {"StringEquals": {"kms:EncryptionContext:openkcm:tenant": tenant_id}},
        },
        {
            "Sid": "OpenKcmRootKeyLook",
            "Effect": "Allow",
            "Principal": {"AWS": principal},
            "Action": "kms:DescribeKey",
            "Resource": "*",
        },
    ]


def trust_statement(tenant_id: str, principal: str) -> dict[str, Any]:
    """Return the statement of a role's trust policy that lets `principal`, an ARN, assume it for this tenant alone."""
    return {
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": external_id(tenant_id)}},
    }
