"""Preparation of each root key provider, the required input, and the comparison of providers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.keys.root_keys import RootKeyMode, key_policy_statements, trust_statement

_PLATFORM_ARN = "ARN OF THE PLATFORM, ASK YOUR OPERATOR"
_ROLE_ARN = "arn:aws:iam::YOUR-ACCOUNT:role/openkcm"


@dataclass(frozen=True, slots=True)
class Entry:
    """A field: its name in `core.keys.root_keys`, and its label. A secret is never shown again."""

    name: str
    label: str
    help: str = ""
    placeholder: str = ""
    secret: bool = False
    long: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One step at the provider: text, and code to paste or run."""

    words: str
    code: str = ""


NAMES: Mapping[RootKeyMode, str] = MappingProxyType(
    {
        RootKeyMode.AWS_KMS: "AWS KMS",
        RootKeyMode.PKCS11: "HSM over PKCS#11",
        RootKeyMode.OPENBAO: "Your OpenBao or Vault",
        RootKeyMode.PLATFORM: "Platform",
    }
)
"""Labels of providers, in display order."""

ENTRIES: Mapping[RootKeyMode, tuple[Entry, ...]] = MappingProxyType(
    {
        RootKeyMode.PLATFORM: (),
        RootKeyMode.AWS_KMS: (
            Entry("key_arn", "Key ARN", "ARN of the key, not of an alias.", "arn:aws:kms:REGION:ACCOUNT:key/ID"),
            Entry(
                "role_arn",
                "Role ARN",
                "The role that the platform assumes. Without a role, enter access keys.",
                "arn:aws:iam::ACCOUNT:role/NAME",
            ),
            Entry("access_key_id", "Access key id (only without a role)", secret=True),
            Entry("secret_access_key", "Secret access key (only without a role)", secret=True),
        ),
        RootKeyMode.PKCS11: (
            Entry("token", "Token label", "The operator assigns the token to the tenant."),
            Entry("key", "Key label"),
            Entry("pin", "PIN", "The user PIN of the token.", secret=True),
        ),
        RootKeyMode.OPENBAO: (
            Entry("address", "Address", placeholder="https://vault.example.com:8200"),
            Entry("mount", "Mount of Transit", "Default: transit.", "transit"),
            Entry("key", "Key name"),
            Entry("namespace", "Namespace (optional)"),
            Entry("role_id", "AppRole role id (optional)", "Requires the secret id instead of a token."),
            Entry("ca_pem", "CA certificates (optional, PEM)", "Trusted instead of the public CAs.", long=True),
            Entry("token", "Token (only without an AppRole)", secret=True),
            Entry("secret_id", "AppRole secret id (only with a role id)", secret=True),
        ),
    }
)


def blocks(
    provider: RootKeyMode, tenant_id: str, typed: Mapping[str, str], aws_principal: str | None = None
) -> tuple[Block, ...]:
    """Return the preparation steps; `typed` fills in known values, `aws_principal` is the principal to trust."""
    match provider:
        case RootKeyMode.AWS_KMS:
            return _aws(tenant_id, typed, aws_principal)
        case RootKeyMode.PKCS11:
            return _pkcs11(typed)
        case RootKeyMode.OPENBAO:
            return _openbao(typed)
        case RootKeyMode.PLATFORM:
            return (
                Block(
                    "No preparation: the platform's key exists. You then have no kill switch that is independent "
                    "of the platform."
                ),
            )


def _aws(tenant_id: str, typed: Mapping[str, str], platform: str | None) -> tuple[Block, ...]:
    ask = (
        ""
        if platform
        else " Ask your platform's operator for the ARN, or select Check with the role entered: the result names it."
    )
    return (
        Block("Create a symmetric key (SYMMETRIC_DEFAULT, encrypt and decrypt) in the region of your tenant."),
        Block(
            "Create a role with this trust policy. The external id is specific to your tenant: AWS uses it to "
            f"reject requests of other tenants that name your role.{ask}",
            _policy(trust_statement(tenant_id, platform or _PLATFORM_ARN)),
        ),
        Block(
            "Add these two statements to the key policy. The condition limits the role to your tenant. Reading "
            "the key's properties has no encryption context, so it has a separate statement. Keep the statement "
            "for your account's root, or the policy can never be changed again, not even by AWS.",
            json.dumps(key_policy_statements(tenant_id, typed.get("role_arn") or _ROLE_ARN), indent=2),
        ),
        Block(
            "Kill switch: disable the key, or remove these statements. Keep kms:DisableKey and "
            "kms:ScheduleKeyDeletion for your own administrators."
        ),
    )


def _policy(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=2)


def _pkcs11(typed: Mapping[str, str]) -> tuple[Block, ...]:
    attributes = (
        f"CKA_LABEL        {typed.get('key') or 'the key label below'}\n"
        "CKA_CLASS        CKO_SECRET_KEY\n"
        "CKA_KEY_TYPE     CKK_AES\n"
        "CKA_VALUE_LEN    32\n"
        "CKA_TOKEN        true\n"
        "CKA_PRIVATE      true\n"
        "CKA_ENCRYPT      true\n"
        "CKA_DECRYPT      true\n"
        "CKA_SENSITIVE    true\n"
        "CKA_EXTRACTABLE  false\n"
        "CKA_MODIFIABLE   true"
    )
    return (
        Block(
            "Ask the operator to configure the PKCS#11 module of your HSM and to assign your token to this tenant. "
            "No other tenant can use the token."
        ),
        Block(
            "Create an AES key in a dedicated token, with these attributes. Its mechanism is CKM_AES_GCM.", attributes
        ),
        Block(
            "Back up the key inside your HSM before you use it: if it is lost, encrypted data can never be "
            "decrypted again."
        ),
        Block("Kill switch: set CKA_DECRYPT to false, change the PIN, or remove the token."),
    )


def _openbao(typed: Mapping[str, str]) -> tuple[Block, ...]:
    mount, key = typed.get("mount") or "transit", typed.get("key") or "KEY"
    policy = (
        f'path "{mount}/encrypt/{key}" {{ capabilities = ["update"] }}\n'
        f'path "{mount}/decrypt/{key}" {{ capabilities = ["update"] }}\n'
        f'path "{mount}/keys/{key}" {{ capabilities = ["read"] }}'
    )
    return (
        Block(
            "Create a key in Transit that cannot be exported.",
            f"bao write -f {mount}/keys/{key} type=aes256-gcm96",
        ),
        Block(
            "Write this policy. Omit `create`: with it, a missing key would be replaced by a new one.",
            policy,
        ),
        Block(
            "Create an AppRole with this policy for the platform, which then logs in again automatically. A token "
            "works only while you renew it: when it expires, your tenant is locked, and an expired token cannot "
            "be renewed.",
            "bao policy write openkcm openkcm.hcl\n"
            "bao write auth/approle/role/openkcm token_policies=openkcm token_ttl=1h\n"
            "bao read auth/approle/role/openkcm/role-id\n"
            "bao write -f auth/approle/role/openkcm/secret-id",
        ),
        Block("Kill switch: remove the policy, revoke the AppRole or the token, or seal the server."),
    )


def in_labels(provider: RootKeyMode, message: str) -> str:
    """Return a message that begins with a field name so that it begins with the label of the field."""
    name, colon, rest = message.partition(": ")
    label = next((entry.label for entry in ENTRIES[provider] if entry.name == name and not entry.secret), "")
    if not colon or not label:
        return message
    return f"{label}: {'required' if rest == 'Field required' else rest}"


_QUESTIONS = (
    "Key holder",
    "Who can decrypt your data",
    "Your kill switch",
    "If the key is disabled or unreachable",
    "If the key is destroyed",
    "Latency",
    "Cost",
    "Requirements",
)


_PLATFORM = (
    "The platform, in its key server in your region.",
    (
        "Your services. The platform could as well, because it holds both the root key and your tenant key. "
        "Isolation excludes every other customer, but not the platform."
    ),
    "None that is independent of the platform.",
    "No service key can be unwrapped until the platform has fixed it. Cached service keys stay usable for a minute.",
    "Encrypted data can never be decrypted again. The platform is responsible for the key.",
    "Negligible: the root key is next to your tenant key, and a cached service key is used for up to a minute.",
    "No additional cost.",
    "None.",
)
_BYOK = (
    "You, in AWS KMS in your AWS account. The key never leaves AWS KMS.",
    "Your services, and the platform only while your key policy allows it. AWS operates the key store.",
    "Disable the key, or withdraw the platform's permission, in your AWS account. It takes effect within seconds.",
    (
        "Disabled or withdrawn: your tenant is locked immediately and cached keys are dropped. Unreachable: "
        "cached keys are used for a minute at most, and your tenant is locked after a short grace period. It "
        "unlocks automatically when the key works again. There is no fallback to a key of the platform."
    ),
    "Encrypted data can never be decrypted again. AWS waits 7 to 30 days before it deletes a key.",
    "One call to AWS KMS for each unwrap of a service key: about once a minute for each active service.",
    "AWS charges for the key and for each call.",
    "An AWS account, a symmetric key in your region, and a key policy that permits the platform to use it.",
)
_HYOK = (
    "You, in your HSM, or in your OpenBao or Vault.",
    "Your services, and the platform only while your HSM or key server permits it.",
    "Disable the key, or withdraw the platform's access to it, on your premises. It takes effect within seconds.",
    (
        "Disabled or withdrawn: your tenant is locked immediately and cached keys are dropped. Unreachable: "
        "cached keys are used for a minute at most, and your tenant is locked after a short grace period. The "
        "availability of your HSM or key server determines the availability of your data. There is no fallback to "
        "a key of the platform."
    ),
    "Encrypted data can never be decrypted again. You alone are responsible for backups of the key.",
    "One call to your HSM or key server for each unwrap of a service key: about once a minute for each active service.",
    "Your HSM or key server, and its operation around the clock.",
    "An HSM with PKCS#11, or an OpenBao or Vault, that the platform can reach, with staff to operate it.",
)
_ANSWERS: Mapping[RootKeyMode, tuple[str, ...]] = MappingProxyType(
    {
        RootKeyMode.PLATFORM: _PLATFORM,
        RootKeyMode.AWS_KMS: _BYOK,
        RootKeyMode.PKCS11: _HYOK,
        RootKeyMode.OPENBAO: _HYOK,
    }
)


def facts(provider: RootKeyMode) -> tuple[tuple[str, str], ...]:
    """Return what a provider means, as questions and answers; the questions are the same for all."""
    return tuple(zip(_QUESTIONS, _ANSWERS[provider], strict=True))
