"""References to root keys (L1), their credentials, and the AWS policy statements that they need.

A reference is not secret: pages show it, the audit stream records it, and it is stored unencrypted. `Credentials` are
stored only encrypted with the tenant key and have no text form. A provider has one class of each here, one file in
`kms/`, and one row in `kms/providers.py`.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv6Address
from textwrap import fill
from typing import Annotated, Any, Literal

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
    """State of a customer's root key; at most one is current."""

    CANDIDATE = "candidate"
    """Accepted; it is wrapping the service keys, and the current key still unwraps all of them."""
    CURRENT = "current"
    RETIRED = "retired"
    """It wraps no service key any more, and its credentials are deleted."""


_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z]{2}(?:-[a-z]+)+-\d):(\d{12}):key/([A-Za-z0-9-]{1,64})", re.ASCII)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_LABEL_OF_HOST = r"[A-Z0-9_](?:[A-Z0-9_-]{0,61}[A-Z0-9_])?"
_ORIGIN = re.compile(
    rf"https?://(?:{_LABEL_OF_HOST}(?:\.{_LABEL_OF_HOST})*|\[(?P<ipv6>[0-9A-F:.]+)\])(?::(?P<port>[1-9]\d{{0,4}}))?",
    re.ASCII | re.IGNORECASE,
)
_LARGEST_PORT = 65_535
_KEY_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_])?")
"""The names that Transit accepts: `..` would name another path."""
_PATH = re.compile(r"(?=.{1,128}\Z)[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+){0,7}")
_LABEL = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,64}")
_GRAPHIC = re.compile(r"[!-~]{1,200}")
"""Printable ASCII without spaces, as HTTP headers and PostgreSQL store it."""


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def _secret(pattern: str, rule: str) -> AfterValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: SecretStr) -> SecretStr:
        if not compiled.fullmatch(value.get_secret_value()):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _address(text: str) -> str:
    origin = text.rstrip("/")
    found = _ORIGIN.fullmatch(origin)
    if found is None or int(found["port"] or 0) > _LARGEST_PORT or not _is_ipv6(found["ipv6"] or "::"):
        raise ValueError("an address such as https://vault.example.com:8200, in ASCII and without a path")
    return origin


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


_LONGEST_PEM = 32_768
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_PEM = re.compile(rf"{_BEGIN}([A-Za-z0-9+/=\s]+){_END}")


def _certificates(text: str) -> str:
    """Return only the certificates of a PEM text: a reference is not secret, and the text may contain a key too.

    The TLS library reports a block of another content, when the root key is tested.
    """
    blocks = ["".join(block.split()) for block in _PEM.findall(text)] if len(text) <= 2 * _LONGEST_PEM else []
    kept = "".join(f"{_BEGIN}\n{fill(block, 64)}\n{_END}\n" for block in blocks if _is_der_sequence(block))
    if not blocks or kept.count(_BEGIN) != len(blocks) or len(kept) > _LONGEST_PEM:
        raise ValueError(f"CA certificates in PEM, at most {_LONGEST_PEM} characters")
    return kept


def _is_der_sequence(encoded: str) -> bool:
    """Return whether base64 contains one complete SEQUENCE, as every certificate is (X.690, 8.1.3)."""
    try:
        der = b64decode(encoded, validate=True)
    except ValueError:
        return False
    more = der[1] & 0x7F if der[1:2] >= b"\x80" else 0
    length = int.from_bytes(der[2 : 2 + more]) if more else int.from_bytes(der[1:2])
    return der[:1] == b"\x30" and len(der) == 2 + more + length


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PlatformKeyRef(_Model):
    """The platform's root key of the region; needs no credentials."""

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
    """An AES key in a PKCS#11 token; only the operator configures which module is loaded."""

    provider: Literal[RootKeyMode.PKCS11] = RootKeyMode.PKCS11
    token: Annotated[str, _matching(_LABEL, "a token's label, 1 to 64 characters")]
    key: Annotated[str, _matching(_LABEL, "a key's label, 1 to 64 characters")]

    @property
    def name(self) -> str:
        """`token/key`."""
        return f"{self.token}/{self.key}"


class OpenBaoKeyRef(_Model):
    """An aes256-gcm96 key in Transit of the customer's OpenBao or Vault, accessed by token or by AppRole."""

    provider: Literal[RootKeyMode.OPENBAO] = RootKeyMode.OPENBAO
    address: Annotated[str, AfterValidator(_address), Field(max_length=200)]
    mount: Annotated[str, _matching(_PATH, "a mount's path such as transit")] = "transit"
    key: Annotated[str, _matching(_KEY_NAME, "a Transit key's name")]
    namespace: Annotated[str, _matching(_PATH, "a namespace's path")] | None = None
    role_id: Annotated[str, _matching(_GRAPHIC, "a role id, 1 to 200 ASCII characters without spaces")] | None = None
    """Role id of an AppRole, whose secret id is the credential; None: the credential is a token."""
    ca_pem: Annotated[str, AfterValidator(_certificates)] | None = None
    """CA certificates to trust instead of the public CAs."""

    @property
    def name(self) -> str:
        """`address/mount/key`."""
        return f"{self.address}/{self.mount}/{self.key}"


Place = Annotated[PlatformKeyRef | AwsKmsKeyRef | Pkcs11KeyRef | OpenBaoKeyRef, Field(discriminator="provider")]


_GRAPHIC_RULE = "ASCII characters without spaces or line breaks"


class Credentials(_Model):
    """Credentials for a provider, of which only `dump` returns the text.

    The reference determines the required fields; an empty value counts as missing.
    """

    access_key_id: Annotated[SecretStr, _secret(r"[!-~]{0,128}", _GRAPHIC_RULE)] | None = None
    secret_access_key: Annotated[SecretStr, _secret(r"[!-~]{0,256}", _GRAPHIC_RULE)] | None = None
    pin: Annotated[SecretStr, _secret(r"[^\x00-\x1f\x7f]{0,255}", "at most 255 characters on one line")] | None = None
    token: Annotated[SecretStr, _secret(r"[!-~]{0,8192}", _GRAPHIC_RULE)] | None = None
    secret_id: Annotated[SecretStr, _secret(r"[!-~]{0,8192}", _GRAPHIC_RULE)] | None = None

    def dump(self) -> bytes:
        """Return the credentials as JSON, only for encryption."""
        plain = {name: value.get_secret_value() for name, value in self if value is not None}
        return TypeAdapter(dict[str, str]).dump_json(plain)

    @classmethod
    def load(cls, dumped: bytes) -> "Credentials":
        """Return the credentials from the output of `dump`; raises RootKeyRefused."""
        try:
            return cls.model_validate_json(dumped)
        except ValidationError as invalid:
            raise _refusal(invalid) from None


def parse_credentials(fields: Mapping[str, str]) -> Credentials:
    """Return the credentials of these fields; raises RootKeyRefused with the invalid field's name, never a value."""
    try:
        return Credentials.model_validate(dict(fields))
    except ValidationError as invalid:
        raise _refusal(invalid) from None


def _refusal(invalid: ValidationError) -> RootKeyRefused:
    """Return the error about the first invalid field; an unknown name may itself be a secret, so it is not quoted."""
    wrong = invalid.errors(include_input=False, include_url=False, include_context=False)[0]
    hint = f"specify a JSON object of strings; the fields are {', '.join(Credentials.model_fields)}"
    if not wrong["loc"]:
        return RootKeyRefused("the credentials are not a JSON object", hint)
    if wrong["loc"][0] not in Credentials.model_fields:
        return RootKeyRefused("the credentials have an unknown field", hint)
    rule = wrong["msg"].removeprefix("Value error, ") if wrong["type"] == "value_error" else "not a string"
    return RootKeyRefused(f"{wrong['loc'][0]}: {rule}", hint)


_PLACE: TypeAdapter[Place] = TypeAdapter(Place)


def parse_place(fields: dict[str, Any]) -> Place:
    """Return the root key reference that `fields` describe, `provider` among them.

    Raises:
        RootKeyRefused: names the first invalid field and its rule, never the value.
    """
    try:
        return _PLACE.validate_python(fields)
    except ValidationError as invalid:
        wrong = invalid.errors(include_input=False, include_url=False, include_context=False)[0]
        where = str(wrong["loc"][-1]) if wrong["loc"] else "provider"
        raise RootKeyRefused(f"{where}: {wrong['msg'].removeprefix('Value error, ')}") from None


def refuse_incomplete(place: Place, credentials: Credentials) -> None:
    """Raise RootKeyRefused unless `credentials` contains exactly the fields that `place` needs."""
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
        raise RootKeyRefused(f"{place.provider} needs {needed}", "submit exactly these, see docs/root-keys.md#commands")


def external_id(tenant_id: str) -> str:
    """Return the external id that a customer's AWS role must require.

    The platform sets it, the same for every role of the tenant. A customer who could choose it could use the role of
    another customer (the confused deputy problem in the AWS documentation).
    """
    return f"openkcm/{tenant_id}"


def credentials_context(tenant_id: str, root_key_id: str) -> EncryptionContext:
    """Return the context that binds a root key's credentials, encrypted with the tenant key, to tenant and row."""
    return EncryptionContext(tenant_id, l2_key(tenant_id), "", Purpose.CREDENTIALS, root_key_id)


def probe_context(tenant_id: str, root_key_id: str) -> EncryptionContext:
    """Return the context of the canary ciphertext of a root key."""
    return EncryptionContext(tenant_id, l2_key(tenant_id), "", Purpose.VERIFY, root_key_id)


def version_context(tenant_id: str) -> EncryptionContext:
    """Return the context of a dummy value that a root key wraps to reveal its newest version."""
    return EncryptionContext(tenant_id, l2_key(tenant_id), "", Purpose.VERIFY, "version")


class Problem(_Model):
    """A problem that a preflight found, with its remedy."""

    code: str
    message: str
    hint: str


def key_policy_statements(tenant_id: str, principal: str) -> list[dict[str, Any]]:
    """Return the key policy statements that let `principal`, an ARN, use the key only for this tenant.

    DescribeKey has no encryption context, so it needs a separate statement.
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
    """Return the trust policy statement that lets `principal`, an ARN, assume the role only for this tenant."""
    return {
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": external_id(tenant_id)}},
    }
