"""The JSON models of the HTTPS server: /openapi.json describes exactly what is validated here.

Models are strict on purpose: an unknown field is rejected, because a misspelt and silently ignored `resource` would
remove the binding. An error names the field and never its value, which may be a plaintext.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

import pybase64
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from core.errors.services import InvalidRequest
from openkcm.contract.protected_fields import Backfill, Mode, Store

RESOURCE_CHARACTERS = 512
BATCH_ITEMS = 1000
USES = 500
"""Places that one heartbeat may report."""
_CIPHERTEXT_SCHEMA = {"type": "string", "description": "as returned by this service, unaltered"}


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise PydanticCustomError("base64", "must be text in base64")
    try:
        return pybase64.b64decode(value, validate=True)
    except ValueError:
        raise PydanticCustomError("base64", "must be base64 (RFC 4648, section 4)") from None


Base64 = Annotated[
    bytes,
    PlainValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "standard base64 with padding"}),
]
Resource = Annotated[
    str,
    Field(
        min_length=1,
        max_length=RESOURCE_CHARACTERS,
        description="your name for the location of the data; decryption requires the same name",
    ),
]
Sealed = Annotated[str, Field(min_length=1), WithJsonSchema(_CIPHERTEXT_SCHEMA)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EncryptRequest(Request):
    plaintext: Base64
    resource: Resource


class CiphertextRequest(Request):
    """For decrypt and rewrap; rewrap also accepts a wrapped data key as `ciphertext`."""

    ciphertext: Sealed
    resource: Resource


class DataKeyRequest(Request):
    resource: Resource
    wrapped_only: bool = Field(default=False, description="omit the plaintext key from the response")


class OpenDataKeyRequest(Request):
    wrapped: Sealed
    resource: Resource


_Count = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
"""More than any program does between two heartbeats, and small enough for sums."""


_Place = Annotated[
    str,
    Field(
        pattern=r"^[^\x00-\x1f\x7f]{1,200}$",
        description="your name for a column or field, such as public.customers.ssn; no personal data",
    ),
]


class ReportedBackfill(Request):
    """The progress of a program that encrypts the values stored before a field was protected, at one place."""

    place: _Place
    done: _Count
    remaining: _Count
    state: Annotated[Backfill, Field(strict=False)]


class ReportedUsage(Request):
    """The encryption and decryption that a program did at one place since its last report, and its requests."""

    place: _Place
    operations: _Count
    bytes: _Count
    microseconds: Annotated[_Count, Field(description="time of encryption and decryption")]
    requests: _Count
    request_microseconds: Annotated[_Count, Field(description="total duration of those requests")]


_FIRST_END, _LAST_END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_OUTSIDE = "must be a time from 2000-01-01 to 2200-01-01"


def _end_of_certificate(end: datetime) -> datetime:
    """Reject times that readers cannot represent in UTC, such as the last hour of 9999 in a western time zone."""
    if not _FIRST_END <= end <= _LAST_END:
        raise PydanticCustomError("outside", _OUTSIDE)
    return end


_AGENT = "instance, agent_version and not_after must all be present or absent; problem requires them"


class HeartbeatRequest(Request):
    """`instance` distinguishes the agents of one service; `not_after` is the expiry of the certificate in use.

    A program that is not an agent omits `instance` and the fields that require it: no agent renews its certificate.
    """

    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    agent_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]{1,64}$")] | None = None
    not_after: Annotated[AwareDatetime, AfterValidator(_end_of_certificate), Field(description=_OUTSIDE)] | None = None
    problem: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")] | None = None
    backfills: Annotated[list[ReportedBackfill], Field(max_length=USES), FailFast()] = []
    uses: Annotated[list[ReportedUsage], Field(max_length=USES), FailFast()] = []

    @model_validator(mode="after")
    def _of_an_agent_or_of_a_program(self) -> Self:
        agents = (self.instance, self.agent_version, self.not_after)
        if len({part is None for part in agents}) > 1 or (self.instance is None and self.problem is not None):
            raise PydanticCustomError("agent", _AGENT)
        return self


class BatchRequest(Request):
    """The items of a batch. Each is validated separately, so that one invalid item does not reject the others."""

    items: Annotated[list[Any], Field(min_length=1, max_length=BATCH_ITEMS)]


def _without_default(schema: dict[str, Any]) -> None:
    """Remove the default, so that an absent field is not described as nullable."""
    schema.pop("default")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class CiphertextAnswer(Answer):
    ciphertext: str


class PlaintextAnswer(Answer):
    plaintext: Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]


class DataKeyAnswer(Answer):
    """`wrapped` is stored beside the data; `plaintext` is absent when only `wrapped` was requested."""

    wrapped: str
    plaintext: Annotated[str | None, WithJsonSchema({"type": "string", "contentEncoding": "base64"})] = Field(
        default=None, json_schema_extra=_without_default
    )


class CertificateAnswer(Answer):
    """The caller's newest certificate; `chain` lists its issuer up to the root. All of it is public."""

    serial: str
    certificate: str = Field(description="PEM")
    chain: str = Field(description="PEM")
    not_before: datetime
    not_after: datetime


class HeartbeatAnswer(Answer):
    """When to send the next heartbeat, and whether a newer certificate than the presented one can be fetched."""

    heartbeat_seconds: int
    certificate_newer: bool


class FieldAnswer(Answer):
    """`place` is schema.table or database.collection; `field` is a column or the dotted path in a document."""

    store: Store
    place: str
    field: str
    mode: Mode
    plaintext_allowed: bool = Field(description="a value that is not encrypted is returned unchanged, not rejected")


class ProtectionAnswer(Answer):
    """`version` increases with every change of the list; 0 means never changed."""

    version: int
    fields: list[FieldAnswer]


class HealthAnswer(Answer):
    status: Literal["ok"]


class ProblemAnswer(Answer):
    """RFC 9457. `code` is stable, `hint` is the next step, `reference` is for the operator's log."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str | None = None
    reference: str | None = None


Parsed = TypeVar("Parsed", bound=Request)


def parse(model: type[Parsed], body: bytes) -> Parsed:
    """Return the validated request; raise InvalidRequest, which names the field and never its value."""
    if len(body) > _SMALL_BYTES:
        _require_few_values(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as refused:
        raise _invalid(refused) from None


def parse_item(model: type[Parsed], item: object) -> Parsed:
    """Validate one item of a batch, already parsed from JSON; raise InvalidRequest."""
    try:
        return model.model_validate(item)
    except ValidationError as refused:
        raise _invalid(refused) from None


def _require_few_values(body: bytes) -> None:
    """Raise InvalidRequest for more values, or more fields in an object, than a valid request has.

    All tenants would wait for their validation, up to 200 ms. Text that is no JSON is not refused here.
    """
    if body.count(b"\\") > _MOST_ESCAPES:
        raise InvalidRequest("the body has too many escape sequences")
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    outside = b"".join(plain.split(b'"')[::2]) if plain.count(b'"') <= 2 * _MOST_VALUES else b"," * len(plain)
    if sum(outside.count(sign) for sign in (b",", b"[", b"{")) > _MOST_VALUES:
        raise InvalidRequest("the body has too many values", f"send at most {BATCH_ITEMS} items in a request")
    objects = [*_INNERMOST.findall(outside), _INNERMOST.sub(b"", outside)]
    if any(one.count(b":") > _MOST_FIELDS for one in objects):
        raise InvalidRequest("an object of the body has too many fields")


def _invalid(refused: ValidationError) -> InvalidRequest:
    """Return the first error. Callers use `from None`: the chain would carry the values into a log."""
    first = refused.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRequest("the body is not JSON", "send one JSON object in UTF-8")
    if first["type"] == "agent":
        return InvalidRequest(_AGENT)
    field = ".".join(str(part)[:_LONGEST_NAME] for part in first["loc"])
    if not field:
        return InvalidRequest("the body or item must be a JSON object")
    most = first.get("ctx", {}).get("max_length")
    rules = {
        "missing": "is missing",
        "extra_forbidden": "is not a field of this operation",
        "string_type": "must be text",
        "bool_type": "must be true or false",
        "list_type": "must be a list",
        "int_type": "must be a whole number",
        "timezone_aware": "must have a time zone",
        "string_too_short": "must not be empty",
        "string_too_long": f"must have at most {most} characters",
        "too_short": "must not be empty",
        "too_long": f"must have at most {most} items",
        "base64": "must be base64 (RFC 4648, section 4)",
        "outside": _OUTSIDE,
    }
    return InvalidRequest(f"{field} {rules.get(first['type'], 'is not valid')}")


_SMALL_BYTES = 2_048
"""Bytes of a body that is validated in less than a millisecond."""
_MOST_VALUES, _MOST_FIELDS, _MOST_ESCAPES = 10_000, 32, 65_536
_INNERMOST = re.compile(rb"\{[^{}\[\]]*\}")
"""An object without objects and lists."""
_LONGEST_NAME = 64
"""The name of an unknown field comes from the caller and is shown, so it is truncated."""
