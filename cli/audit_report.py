"""What a checked file is said to be, in a few lines and as a report.

A file that is being checked may be hostile, so nothing of it is printed as it is: what is not a plain character becomes
a replacement, and what is long is cut.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from cli.audit_file import Checked
from tenancy.proofs import Kind, Outcome, SignatureState
from tenancy.shred import ShredStatement

_HEADS = {Outcome.INTACT: "intact", Outcome.REFUTED: "NOT INTACT", Outcome.NOT_CHECKED: "COULD NOT CHECK"}
_LONGEST = 300
_LISTED = 40
"""How many kinds of events a report lists; the rest is summed up."""


def short(checked: Checked) -> Iterator[str]:
    """Yield what is to be said of a file, a sentence each."""
    verdict = checked.verdict
    what = f"{verdict.kind} of {plain(verdict.tenant_id)}" if verdict.tenant_id else str(verdict.kind)
    counted = "destructions" if verdict.kind is Kind.CERTIFICATE else "records"
    yield f"{_HEADS[verdict.outcome]}: {what}, {verdict.events} {counted}"
    if verdict.problem is not None:
        yield f"problem: {plain(verdict.problem)}"
    yield from _signature(checked)
    if verdict.selection:
        chosen = "; ".join(f"{name}: {value}" for name, value in verdict.selection.items())
        yield f"a selection, not the whole stream: {plain(chosen)}"
    if checked.compared is not None:
        found = checked.compared
        yield (
            f"compared with {checked.against}: {found.same} records are the same,"
            f" {found.only_here} are in this file only, {found.only_there} in the other only"
        )


def render(checked: Checked, at: datetime) -> str:
    """Return the report; `at` is when the file was checked."""
    verdict = checked.verdict
    lines = [
        f"# {verdict.kind} {plain(verdict.tenant_id)}".rstrip(),
        "",
        f"File: {plain(str(checked.path))}",
        f"Checked: {moment(at)}",
        "",
        *short(checked),
    ]
    if checked.contents.names and verdict.intact:
        lines += ["", "## What happened", "", *_contents(checked)]
    if checked.statement is not None and verdict.intact:
        lines += ["", *_statement(checked.statement)]
    return "\n".join(lines) + "\n"


def signature_line(signature: SignatureState, name: str, fingerprint: str) -> Iterator[str]:
    """Yield the line about a signature; nothing where the file is refuted before its signature could be read."""
    key = f"the key {plain(name)}, fingerprint {fingerprint or 'not in the file'}"
    lines = {
        SignatureState.VERIFIED: f"verified, by {key}",
        SignatureState.NOT_CHECKED: f"NOT CHECKED, no public key was given; the file names {key}",
        SignatureState.NOT_REACHED: f"NOT CHECKED, the file is not intact; it names {key}",
        SignatureState.UNKNOWN_KEY: f"NOT CHECKED, its key is not among the public keys given; the file names {key}",
        SignatureState.REFUSED: f"refused; it is not by {key}",
    }
    if signature in lines and (name or signature is not SignatureState.NOT_REACHED):
        yield f"signature: {lines[signature]}"


def _signature(checked: Checked) -> Iterator[str]:
    verdict = checked.verdict
    yield from signature_line(verdict.signature, verdict.key, verdict.fingerprint)
    if verdict.signature is SignatureState.MISSING and (verdict.intact or verdict.incomplete):
        yield "signature: none in this file, so nothing shows whose records these are"
    if verdict.kind is Kind.EXPORT and verdict.intact and not verdict.selection and verdict.signed < verdict.events:
        yield (
            f"records {verdict.signed + 1} to {verdict.events} came after the signed one: chained, but signed by nobody"
            " yet; a later export has them signed"
        )


def _contents(checked: Checked) -> Iterator[str]:
    contents = checked.contents
    yield f"From {plain(contents.first)} to {plain(contents.last)}"
    yield ""
    listed = contents.names.most_common()
    for name, times in listed[:_LISTED]:
        yield f"{times:>8}  {plain(name)}"
    if rest := sum(times for _, times in listed[_LISTED:]):
        yield f"{rest:>8}  others"


def _statement(statement: ShredStatement) -> Iterator[str]:
    yield f"Issued: {moment(statement.issued_at)}"
    yield f"The grace began: {moment(statement.grace_began_at)}"
    yield f"End of the audit stream: record {statement.audit_seq}, hash {statement.audit_hash}"
    yield from ("", "## Destroyed", "")
    for one in statement.destroyed:
        what = f"{one.kind}  {plain(one.name)}  versions {plain(one.versions)}  {one.fingerprint}"
        yield f"{moment(one.destroyed_at)}  {what}"
    yield from ("", "## Erased", "")
    yield from (f"{rows:>8}  {plain(table)}" for table, rows in sorted(statement.erased.items()))
    yield from ("", "## Kept", "")
    yield from (f"{plain(what)}: {plain(why)}" for what, why in sorted(statement.kept.items()))
    yield from ("", "## Remains", "")
    yield from (f"{plain(one.what)}, until {plain(one.until)}" for one in statement.remains)


def moment(at: datetime) -> str:
    """Return a time as people read it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def plain(text: str) -> str:
    """Return a text from a file that may be hostile as it may be printed."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
