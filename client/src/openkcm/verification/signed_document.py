"""A signed document of one line: the signed text, the signature, the key's name and a checksum of each.

The checksums prove nothing, since anyone can compute them. They identify the damaged part, also without a public key.
JSON can encode the same value in many ways, which could hide an edit. A reader therefore writes the document again and
requires the same bytes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from openkcm.verification.results import differs_at

_PARTS = ("statement", "signature", "key")

Statement = TypeVar("Statement", bound=BaseModel)


class InvalidDocument(Exception):
    """The input is not such a document; the text names the faulty part, for the reader's own error."""


@dataclass(frozen=True, slots=True)
class SignedText:
    """The content of a document: signed text, signature (base64 of DER) and key (`name:version`)."""

    text: str
    signature: str
    key: str


def canonical_text(value: object) -> str:
    """Return the canonical JSON text of a value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_document(signed: SignedText) -> str:
    parts = dict(zip(_PARTS, (signed.text, signed.signature, signed.key), strict=True))
    return f"{canonical_text({**parts, 'sha256': {name: _checksum(part) for name, part in parts.items()}})}\n"


def read_document(document: bytes, longest: int, kind: str) -> SignedText:
    """Return the content of a document of at most `longest` bytes, without verifying its signature.

    Raises:
        InvalidDocument: it is not in the form that `write_document` writes.
    """
    if len(document) > longest:
        raise InvalidDocument(f"the file is longer than the maximum for a {kind}")
    try:
        written = document.decode()
        fields = json.loads(written)
    except UnicodeDecodeError as failed:
        raise InvalidDocument(f"the file is not text (byte {failed.start + 1})") from None
    except json.JSONDecodeError as failed:
        raise InvalidDocument(f"the file is not JSON (character {failed.pos + 1})") from None
    except (ValueError, RecursionError):
        raise InvalidDocument("the file is not JSON") from None
    signed = parts_of(fields, kind)
    canonical = write_document(signed)
    if canonical != written:
        raise InvalidDocument(f"the file was altered: it differs at character {differs_at(written, canonical)}")
    return signed


def parts_of(fields: object, kind: str) -> SignedText:
    """Return the parts after comparing their checksums; raises InvalidDocument."""
    if not isinstance(fields, dict) or fields.keys() != {*_PARTS, "sha256"}:
        raise InvalidDocument(f"the file does not have the parts of a {kind}")
    parts, checksums = [fields[name] for name in _PARTS], fields["sha256"]
    if not isinstance(checksums, dict) or checksums.keys() != set(_PARTS):
        raise InvalidDocument("the part sha256 does not have a checksum for each other part")
    for name, part in zip(_PARTS, parts, strict=True):
        if not isinstance(part, str) or _checksum(part) != checksums[name]:
            raise InvalidDocument(f"the part {name} was altered: its checksum does not match")
    return SignedText(*parts)


def statement_of(signed: SignedText, kind: type[Statement], written: Callable[[Statement], str]) -> Statement:
    """Return the statement in the signed text; raises InvalidDocument unless the text is its canonical form."""
    try:
        statement = kind.model_validate_json(signed.text)
    except ValidationError as failed:
        place = ".".join(str(part) for part in failed.errors()[0]["loc"])
        raise InvalidDocument(f"the part statement is invalid: {place or 'no JSON'}") from None
    if (canonical := written(statement)) != signed.text:
        raise InvalidDocument(f"the part statement differs at character {differs_at(signed.text, canonical)}")
    return statement


def _checksum(part: str) -> str:
    """Return the SHA-256 of a part; also of one with a lone surrogate, which only a hostile file contains."""
    return hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest()
