"""What a customer prepares where their root key is held, and what is then asked of them, provider by provider."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.keys.root_keys import RootKeyMode, key_policy_statements, trust_statement

_PLATFORM_ARN = "ARN OF THE PLATFORM, ASK YOUR OPERATOR"
_ROLE_ARN = "arn:aws:iam::YOUR-ACCOUNT:role/openkcm"


@dataclass(frozen=True, slots=True)
class Entry:
    """A field: its name in `core.keys.root_keys`, and how a person reads it. A secret is never shown again."""

    name: str
    label: str
    help: str = ""
    placeholder: str = ""
    secret: bool = False
    long: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One thing to do there: words, and what to paste or run where there is something."""

    words: str
    code: str = ""
    language: str = ""


NAMES: Mapping[RootKeyMode, str] = MappingProxyType(
    {
        RootKeyMode.AWS_KMS: "AWS KMS",
        RootKeyMode.PKCS11: "HSM over PKCS#11",
        RootKeyMode.OPENBAO: "Own OpenBao or Vault",
        RootKeyMode.PLATFORM: "Platform",
    }
)
"""Providers as they are chosen, in this order."""

ENTRIES: Mapping[RootKeyMode, tuple[Entry, ...]] = MappingProxyType(
    {
        RootKeyMode.PLATFORM: (),
        RootKeyMode.AWS_KMS: (
            Entry("key_arn", "Key ARN", "Of the key itself, not of an alias.", "arn:aws:kms:REGION:ACCOUNT:key/ID"),
            Entry(
                "role_arn",
                "Role ARN",
                "The role that the platform assumes. Without one, give access keys.",
                "arn:aws:iam::ACCOUNT:role/NAME",
            ),
            Entry("access_key_id", "Access key id (only without a role)", secret=True),
            Entry("secret_access_key", "Secret access key (only without a role)", secret=True),
        ),
        RootKeyMode.PKCS11: (
            Entry("token", "Token label", "Which HSM module is used is the operator's setting."),
            Entry("key", "Key label"),
            Entry("pin", "PIN", "The user PIN of the token.", secret=True),
        ),
        RootKeyMode.OPENBAO: (
            Entry("address", "Address", placeholder="https://vault.example.com:8200"),
            Entry("mount", "Mount of Transit", "Empty: transit.", "transit"),
            Entry("key", "Key name"),
            Entry("namespace", "Namespace (optional)"),
            Entry("role_id", "AppRole role id (optional)", "With it, give the secret id instead of a token."),
            Entry("ca_pem", "CA certificates (optional, PEM)", "To trust instead of the public ones.", long=True),
            Entry("token", "Token (only without an AppRole)", secret=True),
            Entry("secret_id", "AppRole secret id (only with a role id)", secret=True),
        ),
    }
)


def blocks(
    provider: RootKeyMode, tenant_id: str, typed: Mapping[str, str], aws_principal: str | None = None
) -> tuple[Block, ...]:
    """Return what to do first; `typed` fills in what is known of the place already, `aws_principal` who trusts whom."""
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
                    "Nothing: the platform's key is there already. From then on you have no kill switch of your own."
                ),
            )


def _aws(tenant_id: str, typed: Mapping[str, str], platform: str | None) -> tuple[Block, ...]:
    ask = (
        ""
        if platform
        else " Ask your platform's operator for the ARN that it has to name, or press Check with the role given: the "
        "answer names it."
    )
    return (
        Block("Make a symmetric key (SYMMETRIC_DEFAULT, encrypt and decrypt) in the region of your tenant."),
        Block(
            "Make a role with this trust policy. The external id is your tenant's own: by it AWS tells your tenant's "
            f"requests from those of another one that names your role.{ask}",
            _policy(trust_statement(tenant_id, platform or _PLATFORM_ARN)),
            "json",
        ),
        Block(
            "Add these two statements to the key's policy. The condition lets the role use the key for your tenant and "
            "nothing else; looking at a key carries no such context, so it stands apart. Leave the statement for your "
            "own account's root in the policy, or nobody, AWS included, can ever change it again.",
            json.dumps(key_policy_statements(tenant_id, typed.get("role_arn") or _ROLE_ARN), indent=2),
            "json",
        ),
        Block(
            "Your kill switch: disable the key, or take these statements away. Keep kms:DisableKey and "
            "kms:ScheduleKeyDeletion for your own people."
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
        Block("Have the operator set up the PKCS#11 module of your HSM; tenants cannot choose what is loaded."),
        Block(
            "Make an AES key in a token of its own, with these attributes. Its mechanism is CKM_AES_GCM.", attributes
        ),
        Block(
            "Back the key up inside your HSM before you use it: if it is lost, nothing that was encrypted can ever be "
            "read again."
        ),
        Block("Your kill switch: set CKA_DECRYPT to false, change the PIN, or take the token away."),
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
            "Make a key in Transit that cannot be exported.",
            f"bao write -f {mount}/keys/{key} type=aes256-gcm96",
            "bash",
        ),
        Block(
            "Write this policy. Not `create`: with it, a new key would be made unasked where yours is gone.",
            policy,
            "hcl",
        ),
        Block(
            "Give the platform an AppRole with this policy: it logs in anew by itself. A token does as well while you "
            "renew it: when it ends your tenant is locked, and a token that has ended never works again.",
            "bao policy write openkcm openkcm.hcl\n"
            "bao write auth/approle/role/openkcm token_policies=openkcm token_ttl=1h\n"
            "bao read auth/approle/role/openkcm/role-id\n"
            "bao write -f auth/approle/role/openkcm/secret-id",
            "bash",
        ),
        Block("Your kill switch: take the policy away, revoke the AppRole or the token, or seal the server."),
    )


def in_labels(provider: RootKeyMode, message: str) -> str:
    """Return a refusal that begins with a field's name so that it begins with its label, as a person sees it."""
    name, colon, rest = message.partition(": ")
    label = next((entry.label for entry in ENTRIES[provider] if entry.name == name and not entry.secret), "")
    if not colon or not label:
        return message
    return f"{label}: {'fill this in' if rest == 'Field required' else rest}"
