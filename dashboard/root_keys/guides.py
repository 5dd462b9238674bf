"""What a customer prepares where their root key is held, and what is then asked of them, provider by provider.

The three ways to hold the root key, side by side and as they are: what each gives, costs and risks.
"""

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


_QUESTIONS = (
    "Who holds the root key",
    "Who can open your data",
    "Your kill switch",
    "If the key is disabled or out of reach",
    "If the key is destroyed",
    "Latency",
    "Cost",
    "What you need",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way; `facts` are questions and answers in the same order for all."""

    name: str
    short: str
    facts: tuple[tuple[str, str], ...]
    in_force: bool


_PLATFORM = (
    "The platform, in its key server in your region.",
    (
        "Your services. The platform could as well, because it holds both the root key and your tenant key. The "
        "isolation keeps every other customer out; it does not exclude the platform."
    ),
    "None that is out of the platform's hands.",
    "No service key opens until the platform has mended it. Keys that are open stay usable for a minute at most.",
    "Nothing that was encrypted can be read again. Keeping the key safe is the platform's duty.",
    "None to speak of: the root key is next to your tenant key, and an opened service key serves for up to a minute.",
    "Nothing beyond the service.",
    "Nothing.",
)
_BYOK = (
    "You, in AWS KMS in your own AWS account. The key never leaves AWS KMS.",
    "Your services, and the platform only while your key lets it. AWS operates the key store.",
    "Disable the key, or withdraw the platform's right to use it, in your AWS account. It is noticed within seconds.",
    (
        "Disabled or withdrawn: your tenant is locked at once and what is open is dropped. Out of reach: what is open "
        "serves for a minute at most, and after a short grace your tenant is locked. It unlocks by itself when the key "
        "works again. There is no silent fallback to a key of the platform."
    ),
    "Nothing that was encrypted can be read again, by anybody. AWS waits 7 to 30 days before it deletes a key.",
    "One call to AWS KMS whenever a service key is opened: about once a minute for each service in use.",
    "AWS charges for the key and for each call.",
    "An AWS account, a symmetric key in your region, and a key policy that lets the platform use it.",
)
_HYOK = (
    "You, in your own HSM, or in your own OpenBao or Vault.",
    "Your services, and the platform only while your HSM or key server answers it.",
    "Disable the key, or withdraw the platform's access to it, on your own premises. It is noticed within seconds.",
    (
        "Disabled or withdrawn: your tenant is locked at once and what is open is dropped. Out of reach: what is open "
        "serves for a minute at most, and after a short grace your tenant is locked. How available your HSM or key "
        "server is decides how available your data is. There is no silent fallback to a key of the platform."
    ),
    "Nothing that was encrypted can be read again, by anybody. Backups of the key are your duty alone.",
    "One call to your HSM or key server whenever a service key is opened: about once a minute for each service in use.",
    "Your HSM or key server, and running it day and night.",
    "An HSM with PKCS#11 or an OpenBao or Vault that the platform can reach, and people who keep it up.",
)
_CHOICES = (
    ("Platform-managed", "default", frozenset({"platform"}), _PLATFORM),
    ("BYOK", "bring your own key, AWS KMS", frozenset({"aws-kms"}), _BYOK),
    ("HYOK", "hold your own key, on-premises", frozenset({"pkcs11", "openbao"}), _HYOK),
)


def choices(root_key_mode: str) -> tuple[Choice, ...]:
    """Return the three ways; the one in force is marked."""
    return tuple(
        Choice(
            name=name,
            short=short,
            facts=tuple(zip(_QUESTIONS, answers, strict=True)),
            in_force=root_key_mode in modes,
        )
        for name, short, modes, answers in _CHOICES
    )
