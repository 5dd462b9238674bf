"""A compliance report as files: which content is signed, and where the figures are stored.

The JSON file is one signed document (`signed_document`) whose statement is the report. The HTML and PDF files embed
that document, so each of the three is enough to verify every figure. Each of these ends with a signature over all bytes
before it, which proves that its text was made from these figures.

All signatures are by the key that signs audit streams, over `openkcm-report/1 <tenant> <form> <SHA-256>`.

The embedded file of a PDF is extracted without a PDF library, so that a verifier needs only this module. It accepts
only the output of the platform's typesetter: one stream of type EmbeddedFile with its dictionary directly before it.
The structure of a PDF is not trusted; the signature over its bytes proves the origin.
"""

import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum

from openkcm.verification.reports.model import Report, Snapshot
from openkcm.verification.signed_document import (
    InvalidDocument,
    SignedText,
    canonical_text,
    parts_of,
    read_document,
    statement_of,
    write_document,
)

KIND = "compliance report"
LONGEST_DOCUMENT = 20_000_000
"""Maximum size of a document in bytes; a report's lists are bounded, its keys and services are not."""
LONGEST_FILE = 60_000_000
"""Maximum size of an HTML or PDF file in bytes."""

ELEMENT = '<script type="application/json" id="openkcm-report">'
_ELEMENT_ENDS = "</script>"

_SIGNED = rb"openkcm-report/1 ([a-z0-9-]{1,40}:[0-9]{1,9}) ([A-Za-z0-9+/=]{1,400})"


class ReportFormat(StrEnum):
    """The format of a report's file."""

    JSON = "json"
    HTML = "html"
    PDF = "pdf"


_LAST_LINES = {
    ReportFormat.HTML: (re.compile(rb"<!-- " + _SIGNED + rb" -->\n"), "<!-- {} -->\n"),
    ReportFormat.PDF: (re.compile(rb"%" + _SIGNED + rb"\n"), "%{}\n"),
}
"""A comment, which neither format displays: the pattern to read it, and the template to write it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature over `message`: base64 of the DER form, by `key` (`name:version`)."""

    message: bytes
    signature: str
    key: str


@dataclass(frozen=True, slots=True)
class ParsedReport:
    """A parsed file: its report, and all signatures to verify."""

    form: ReportFormat
    report: Report
    signatures: tuple[Signature, ...]


def report_text(report: Report) -> str:
    """Return the signed text; a report has exactly one."""
    return canonical_text(report.model_dump(mode="json"))


def stated_digest(stated: Snapshot) -> str:
    """Return the SHA-256 that binds the snapshot to the audit stream."""
    return hashlib.sha256(canonical_text(stated.model_dump(mode="json")).encode()).hexdigest()


def report_message(tenant_id: str, form: ReportFormat, content: bytes) -> bytes:
    """Return the message to sign; its prefix differs from checkpoints and certificates, so none can replace another."""
    return f"openkcm-report/1 {tenant_id} {form} {hashlib.sha256(content).hexdigest()}".encode()


def element(document: bytes) -> str:
    """Return the element that embeds the document in HTML; `<` is escaped, since it could end the element."""
    return f"{ELEMENT}{document.decode().strip().replace('<', chr(92) + 'u003c')}{_ELEMENT_ENDS}"


def signable(content: bytes) -> bytes:
    """Return a rendered file in the form that is signed, so that the signature starts on a new line."""
    return content if content.endswith(b"\n") else content + b"\n"


def with_signature(content: bytes, form: ReportFormat, signature: str, key: str) -> bytes:
    """Return a signable HTML or PDF file with its signature line."""
    _, written = _LAST_LINES[form]
    return content + written.format(f"openkcm-report/1 {key} {signature}").encode()


def read_report(file: bytes) -> ParsedReport:
    """Return the report in a file of any format, without verifying signatures; see `verify`.

    Raises:
        InvalidDocument: the file is not a report of the platform, or its figures are not in canonical form.
    """
    if len(file) > LONGEST_FILE:
        raise InvalidDocument(f"the file is longer than the maximum for a {KIND}")
    form = _form(file)
    if form is ReportFormat.JSON:
        signed, outer = read_document(file, LONGEST_DOCUMENT, KIND), None
    else:
        content, key, signature = _split_signature(file, form)
        signed = _embedded_document(content, form)
        outer = (content, signature, key)
    report = statement_of(signed, Report, report_text)
    inner = Signature(
        report_message(report.tenant_id, ReportFormat.JSON, signed.text.encode()), signed.signature, signed.key
    )
    if outer is None:
        return ParsedReport(form, report, (inner,))
    content, signature, key = outer
    return ParsedReport(
        form, report, (Signature(report_message(report.tenant_id, form, content), signature, key), inner)
    )


def _form(file: bytes) -> ReportFormat:
    if file.startswith(b"%PDF-"):
        return ReportFormat.PDF
    return ReportFormat.JSON if file.startswith(b"{") else ReportFormat.HTML


def _split_signature(file: bytes, form: ReportFormat) -> tuple[bytes, str, str]:
    """Return signed content, key and signature of a file that ends with its signature."""
    pattern, _ = _LAST_LINES[form]
    begins = file.rfind(b"\n", 0, max(len(file) - 1, 0)) + 1
    last = pattern.fullmatch(file, begins)
    if last is None:
        raise InvalidDocument("the last line is not the signature of a compliance report")
    return file[:begins], last[1].decode(), last[2].decode()


def _embedded_document(content: bytes, form: ReportFormat) -> SignedText:
    """Return the document that a file embeds."""
    text = attached(content, LONGEST_DOCUMENT) if form is ReportFormat.PDF else _in_element(content)
    try:
        signed = parts_of(json.loads(text), KIND)
        return read_document(write_document(signed).encode(), LONGEST_DOCUMENT, KIND)
    except (ValueError, RecursionError):  # a lone surrogate is a ValueError as well
        raise InvalidDocument("the figures in the file are not JSON") from None


def _in_element(content: bytes) -> bytes:
    _, begins, rest = content.partition(ELEMENT.encode())
    text, ends, _ = rest.partition(_ELEMENT_ENDS.encode())
    if not begins or not ends:
        raise InvalidDocument("the file does not contain its figures")
    if len(text) > LONGEST_DOCUMENT or ELEMENT.encode() in rest:
        raise InvalidDocument("the file contains more than one set of figures, or too many")
    return text


_STREAM = re.compile(rb"<<(/Length [0-9]{1,9}/Type/EmbeddedFile/Filter/FlateDecode[^\x00-\x1f]{0,300})>>\nstream\n")
_LENGTH = re.compile(rb"/Length ([0-9]{1,9})")


def attached(pdf: bytes, longest: int) -> bytes:
    """Return the embedded file of a PDF, at most `longest` bytes after decompression; raises InvalidDocument."""
    found = list(_STREAM.finditer(pdf))
    if len(found) != 1:
        raise InvalidDocument("the file does not contain exactly one set of figures")
    length, begins = _LENGTH.match(found[0][1]), found[0].end()
    packed = pdf[begins : begins + int(length[1])] if length else b""
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(packed, longest + 1)
    except zlib.error:
        raise InvalidDocument("the figures in the file cannot be decompressed") from None
    if len(text) > longest or not inflating.eof or inflating.unused_data:
        raise InvalidDocument("the figures in the file are incomplete, or too many")
    return text
