"""The JSON of the HTTPS front as models: what is checked here is also what /openapi.json describes.

Strict on purpose: an unknown field is refused, because a misspelt `resource` that is silently ignored is how a
binding goes missing. A refusal names the field and never its value, which may be a plaintext.
"""

import binascii
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
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
"""Places that one heartbeat may tell of."""
_CIPHERTEXT_SCHEMA = {"type": "string", "description": "as answered by this service, unaltered"}


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise PydanticCustomError("base64", "must be text in base64")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
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
        description="your own name for the place of the data; what was encrypted under one opens under no other",
    ),
]
Sealed = Annotated[str, Field(min_length=1), WithJsonSchema(_CIPHERTEXT_SCHEMA)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EncryptRequest(Request):
    plaintext: Base64
    resource: Resource


class CiphertextRequest(Request):
    """For decrypt and rewrap; rewrap also takes a wrapped data key as `ciphertext`."""

    ciphertext: Sealed
    resource: Resource


class DataKeyRequest(Request):
    resource: Resource
    wrapped_only: bool = Field(default=False, description="answer without the plaintext key")


class OpenDataKeyRequest(Request):
    wrapped: Sealed
    resource: Resource


_Count = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
"""More than any program does between two heartbeats, and little enough to be added up."""


_Place = Annotated[
    str,
    Field(
        pattern=r"^[^\x00-\x1f\x7f]{1,200}$",
        description="your own name for a column or field, such as public.customers.ssn; no personal data",
    ),
]


class ReportedBackfill(Request):
    """How far a program is with encrypting the values from before the protection at one place."""

    place: _Place
    done: _Count
    remaining: _Count
    state: Annotated[Backfill, Field(strict=False)]


class ReportedUsage(Request):
    """What a program encrypted and decrypted itself at one place since it last said so, and in what requests."""

    place: _Place
    operations: _Count
    bytes: _Count
    microseconds: Annotated[_Count, Field(description="spent in encrypting and decrypting")]
    requests: _Count
    request_microseconds: Annotated[_Count, Field(description="how long those requests took as a whole")]


_AGENT = "instance, agent_version and not_after belong together; without them there is no problem either"


class HeartbeatRequest(Request):
    """`instance` tells the agents of one service apart; `not_after` is the end of the certificate in use.

    A program that is no agent leaves `instance` and all that belongs to it out: it is not looked after by anybody.
    """

    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    agent_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]{1,64}$")] | None = None
    not_after: AwareDatetime | None = None
    problem: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")] | None = None
    backfills: Annotated[list[ReportedBackfill], Field(max_length=USES)] = []
    uses: Annotated[list[ReportedUsage], Field(max_length=USES)] = []

    @model_validator(mode="after")
    def _of_an_agent_or_of_a_program(self) -> Self:
        agents = (self.instance, self.agent_version, self.not_after)
        if len({part is None for part in agents}) > 1 or (self.instance is None and self.problem is not None):
            raise PydanticCustomError("agent", _AGENT)
        return self


class BatchRequest(Request):
    """The items of a batch, each checked by itself so that one bad item does not refuse the others."""

    items: Annotated[list[Any], Field(min_length=1, max_length=BATCH_ITEMS)]


def _without_default(schema: dict[str, Any]) -> None:
    """Keep an absent field from being described as one that may be null."""
    schema.pop("default")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class CiphertextAnswer(Answer):
    ciphertext: str


class PlaintextAnswer(Answer):
    plaintext: Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]


class DataKeyAnswer(Answer):
    """`wrapped` is kept beside the data; `plaintext` is absent when only that was asked for."""

    wrapped: str
    plaintext: Annotated[str | None, WithJsonSchema({"type": "string", "contentEncoding": "base64"})] = Field(
        default=None, json_schema_extra=_without_default
    )


class CertificateAnswer(Answer):
    """The caller's newest certificate; `chain` goes from its issuer up to the root. Public, all of it."""

    serial: str
    certificate: str = Field(description="PEM")
    chain: str = Field(description="PEM")
    not_before: datetime
    not_after: datetime


class HeartbeatAnswer(Answer):
    """When to send the next one, and whether a newer certificate than the presented one can be fetched."""

    heartbeat_seconds: int
    certificate_newer: bool


class FieldAnswer(Answer):
    """`place` is schema.table or database.collection, `field` a column or the dotted path in a document."""

    store: Store
    place: str
    field: str
    mode: Mode
    plain_allowed: bool = Field(description="a value that is not encrypted is read as it is, and not refused")


class ProtectionAnswer(Answer):
    """`version` rises with every change of the list; 0 is one that nobody ever changed."""

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
    """Return the checked request; raises InvalidRequest naming the field and never its value."""
    try:
        return model.model_validate_json(body)
    except ValidationError as refused:
        raise _invalid(refused) from None


def parse_item(model: type[Parsed], item: object) -> Parsed:
    """Check one item of a batch, already read from JSON; raises InvalidRequest."""
    try:
        return model.model_validate(item)
    except ValidationError as refused:
        raise _invalid(refused) from None


def _invalid(refused: ValidationError) -> InvalidRequest:
    """Return what is wrong first. `from None` at the callers: the chain would carry the values into a log."""
    first = refused.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRequest("the body is not JSON", "send one JSON object in UTF-8")
    if first["type"] == "agent":
        return InvalidRequest(_AGENT)
    field = ".".join(str(part)[:_LONGEST_NAME] for part in first["loc"])
    if not field:
        return InvalidRequest("the body or item must be a JSON object")
    rules = {
        "missing": "is missing",
        "extra_forbidden": "is not a field of this operation",
        "string_type": "must be text",
        "bool_type": "must be true or false",
        "list_type": "must be a list",
        "int_type": "must be a whole number",
        "timezone_aware": "must say its time zone",
        "string_too_short": "must not be empty",
        "string_too_long": f"must have at most {RESOURCE_CHARACTERS} characters",
        "too_short": "must not be empty",
        "too_long": f"must have at most {BATCH_ITEMS} items",
        "base64": "must be base64 (RFC 4648, section 4)",
    }
    return InvalidRequest(f"{field} {rules.get(first['type'], 'is not as it must be')}")


_LONGEST_NAME = 64
"""An unknown field's name comes from the caller and is shown, so it is cut."""
