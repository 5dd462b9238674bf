"""A signed document of one line: the text that was signed, the signature, the key's name and a checksum of each.

The checksums prove nothing, anybody can compute them; they tell which part was damaged, and that one was where there is
no public key at hand. JSON has many ways to say the same. A reader that took them all would not see that somebody was
at the file, so a document is written anew from what was read and must come out the same, byte for byte.
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
    """What was read is no such document; the text says which part is not, for the reader's own error."""


@dataclass(frozen=True, slots=True)
class SignedText:
    """What a document holds: the text that was signed, the signature (base64 of DER) and the key (`name:version`)."""

    text: str
    signature: str
    key: str


def canonical_text(value: object) -> str:
    """Return the one JSON text of a value, whoever writes it and whenever."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_document(signed: SignedText) -> str:
    parts = dict(zip(_PARTS, (signed.text, signed.signature, signed.key), strict=True))
    return f"{canonical_text({**parts, 'sha256': {name: _checksum(part) for name, part in parts.items()}})}\n"


def read_document(document: bytes, longest: int, kind: str) -> SignedText:
    """Return what a document of a kind holds, no longer than `longest`; its signature is not looked at.

    Raises:
        InvalidDocument: it is not exactly as `write_document` wrote it.
    """
    if len(document) > longest:
        raise InvalidDocument(f"the file is longer than any {kind}")
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
        raise InvalidDocument(
            f"the file is not as it was written: it differs at character {differs_at(written, canonical)}"
        )
    return signed


def parts_of(fields: object, kind: str) -> SignedText:
    """Return the parts, each of which fits its checksum; raises InvalidDocument."""
    if not isinstance(fields, dict) or fields.keys() != {*_PARTS, "sha256"}:
        raise InvalidDocument(f"the file does not have the parts of a {kind}")
    parts, checksums = [fields[name] for name in _PARTS], fields["sha256"]
    if not isinstance(checksums, dict) or checksums.keys() != set(_PARTS):
        raise InvalidDocument("the part sha256 does not have a checksum of each other part")
    for name, part in zip(_PARTS, parts, strict=True):
        if not isinstance(part, str) or _checksum(part) != checksums[name]:
            raise InvalidDocument(f"the part {name} was altered: it does not fit its checksum")
    return SignedText(*parts)


def statement_of(signed: SignedText, kind: type[Statement], written: Callable[[Statement], str]) -> Statement:
    """Return what the signed text states; raises InvalidDocument where the text is not the one that says it."""
    try:
        statement = kind.model_validate_json(signed.text)
    except ValidationError as failed:
        place = ".".join(str(part) for part in failed.errors()[0]["loc"])
        raise InvalidDocument(f"the part statement is not one: {place or 'no JSON'}") from None
    if (canonical := written(statement)) != signed.text:
        raise InvalidDocument(f"the part statement differs at character {differs_at(signed.text, canonical)}")
    return statement


def _checksum(part: str) -> str:
    """Return the SHA-256 of a part; a lone surrogate, which no text of ours holds, has one as well."""
    return hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest()
