"""Who can hold a tenant's root key (L1), where it lies, and what its provider has to be told.

A `Route` is what everybody may read: it is shown on pages, written to the audit stream and stored in the clear. What
opens the door there is `Credentials`, which are stored only encrypted under the tenant and have no text form.
A provider is one class of each here, one file in `kms/`, and its row in `kms/providers.py`.

What a customer's AWS account has to allow, word for word: shown beforehand, and named where it is missing.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from core.errors.keys import RootKeyRefused
from core.keys.encryption_context import EncryptionContext, Purpose
from core.names import l2_key


class RootKeyMode(StrEnum):
    PLATFORM = "platform"
    AWS_KMS = "aws-kms"
    PKCS11 = "pkcs11"
    OPENBAO = "openbao"


class RootKeyState(StrEnum):
    """What a root key of the customer's is to its tenant; at most one is current."""

    CANDIDATE = "candidate"
    """Admitted, and service keys are being wrapped under it; the current key still opens everything."""
    CURRENT = "current"
    RETIRED = "retired"
    """Nothing lies under it any more and its credentials are forgotten."""


_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z]{2}(?:-[a-z]+)+-\d):(\d{12}):key/([A-Za-z0-9-]{1,64})")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}")
_KEY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_PATH = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+){0,7}")
_LABEL = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("an address such as https://vault.example.com:8200")
    return text.rstrip("/")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PlatformKeyRef(_Model):
    """The platform's own key of the region; needs nothing."""

    provider: Literal[RootKeyMode.PLATFORM] = RootKeyMode.PLATFORM

    @property
    def name(self) -> str:
        return "the platform's key"


class AwsKmsKeyRef(_Model):
    """A symmetric AWS KMS key, used through a role (with the tenant's external id) or through access keys."""

    provider: Literal[RootKeyMode.AWS_KMS] = RootKeyMode.AWS_KMS
    key_arn: Annotated[str, _matching(_ARN, "a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, not an alias")]
    role_arn: Annotated[str, _matching(_ROLE, "a role's ARN, arn:aws:iam::ACCOUNT:role/NAME")] | None = None

    @property
    def name(self) -> str:
        """The key's ARN."""
        return self.key_arn

    @property
    def region(self) -> str:
        """The AWS region in the ARN."""
        return self.key_arn.split(":")[3]


class Pkcs11KeyRef(_Model):
    """An AES key in a PKCS#11 token; which module is loaded is the operator's setting, never the customer's."""

    provider: Literal[RootKeyMode.PKCS11] = RootKeyMode.PKCS11
    token: Annotated[str, _matching(_LABEL, "a token's label, 1 to 64 characters")]
    key: Annotated[str, _matching(_LABEL, "a key's label, 1 to 64 characters")]

    @property
    def name(self) -> str:
        """`token/key`."""
        return f"{self.token}/{self.key}"


class OpenBaoKeyRef(_Model):
    """An aes256-gcm96 key in Transit of the customer's own OpenBao or Vault, by token or by AppRole."""

    provider: Literal[RootKeyMode.OPENBAO] = RootKeyMode.OPENBAO
    address: Annotated[str, AfterValidator(_address), Field(max_length=200)]
    mount: Annotated[str, _matching(_PATH, "a mount's path such as transit")] = "transit"
    key: Annotated[str, _matching(_KEY_NAME, "a Transit key's name")]
    namespace: Annotated[str, _matching(_PATH, "a namespace's path")] | None = None
    role_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Of an AppRole, whose secret id is then the credential; None: the credential is a token."""
    ca_pem: Annotated[str, Field(max_length=32_768)] | None = None
    """Certificates to trust instead of the public ones."""

    @property
    def name(self) -> str:
        """`address/mount/key`."""
        return f"{self.address}/{self.mount}/{self.key}"


Place = Annotated[PlatformKeyRef | AwsKmsKeyRef | Pkcs11KeyRef | OpenBaoKeyRef, Field(discriminator="provider")]


class Credentials(_Model):
    """What the provider is shown. Which fields are needed says the place; `dump` alone turns them into text."""

    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    pin: SecretStr | None = None
    token: SecretStr | None = None
    secret_id: SecretStr | None = None

    def dump(self) -> bytes:
        """Return them as JSON, to be encrypted and nothing else."""
        plain = {name: value.get_secret_value() for name, value in self if value is not None}
        return TypeAdapter(dict[str, str]).dump_json(plain)

    @classmethod
    def load(cls, dumped: bytes) -> "Credentials":
        """Return what `dump` gave; raises RootKeyRefused."""
        try:
            return cls.model_validate_json(dumped)
        except ValidationError:
            raise RootKeyRefused("the credentials are not readable") from None


_PLACE: TypeAdapter[Place] = TypeAdapter(Place)


def parse_place(fields: dict[str, Any]) -> Place:
    """Return the place that `fields` describe, `provider` among them.

    Raises:
        RootKeyRefused: names the first field that is wrong and the rule, never the value.
    """
    try:
        return _PLACE.validate_python(fields)
    except ValidationError as refused:
        wrong = refused.errors(include_input=False, include_url=False, include_context=False)[0]
        where = str(wrong["loc"][-1]) if wrong["loc"] else "provider"
        raise RootKeyRefused(f"{where}: {wrong['msg'].removeprefix('Value error, ')}") from None


def refuse_incomplete(place: Place, credentials: Credentials) -> None:
    """Raise RootKeyRefused unless `credentials` are those that `place` needs, and no others."""
    given = {name for name, value in credentials if value is not None and value.get_secret_value()}
    match place:
        case PlatformKeyRef():
            wanted = [set[str]()]
        case AwsKmsKeyRef(role_arn=None):
            wanted = [{"access_key_id", "secret_access_key"}]
        case AwsKmsKeyRef():
            wanted = [set[str](), {"access_key_id", "secret_access_key"}]
        case Pkcs11KeyRef():
            wanted = [{"pin"}]
        case OpenBaoKeyRef(role_id=None):
            wanted = [{"token"}]
        case OpenBaoKeyRef():  # pragma: no branch - mypy checks that every case is named
            wanted = [{"secret_id"}]
    if given not in wanted:
        needed = " and ".join(sorted(wanted[-1])).replace("_", " ") or "no credentials"
        raise RootKeyRefused(
            f"{place.provider} here needs {needed}", "give exactly these, see docs/root-keys.md#the-commands"
        )


def external_id(tenant_id: str) -> str:
    """Return the external id that a customer's AWS role must ask for.

    It is ours to choose and the same for every role of the tenant: a customer who could choose it could name another's
    role (the confused deputy of AWS's documentation).
    """
    return f"openkcm/{tenant_id}"


def credentials_context(tenant_id: str, root_key_id: str) -> EncryptionContext:
    """Return what binds a root key's stored credentials, encrypted under the tenant's L2, to their tenant and row."""
    return EncryptionContext(tenant_id, l2_key(tenant_id), "", Purpose.CREDENTIALS, root_key_id)


def probe_context(tenant_id: str, root_key_id: str) -> EncryptionContext:
    """Return what binds the known value by which a root key is tried."""
    return EncryptionContext(tenant_id, l2_key(tenant_id), "", Purpose.VERIFY, root_key_id)


def version_context(tenant_id: str) -> EncryptionContext:
    """Return what a root key wraps something of no worth in, so that it tells its newest version."""
    return EncryptionContext(tenant_id, l2_key(tenant_id), "", Purpose.VERIFY, "version")


class Problem(_Model):
    """What a preflight found, as a person should read it."""

    code: str
    message: str
    hint: str


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
