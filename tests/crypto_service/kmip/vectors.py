"""Runs the OASIS cases: pass, fail, or not supported, with a reason for each that does not pass.

Each request passes as bytes through the codec and the dispatcher and back, as on a connection. Every case has a
separate service, except for cases that continue where the previous one ended. The server's clock is set to the time at
which the case was recorded, so that keys expire as they did then.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.operation_table import OPERATIONS
from tests.crypto_service.kmip import oasis_xml
from tests.crypto_service.kmip.oasis_compare import CaseComparison
from tests.crypto_service.kmip.oasis_xml import Case, Known, Node

Answer = Callable[[Item, int], Awaitable[Item]]
"""How a service sends a request; the number is the current time."""
Open = Callable[[str], Answer]
"""Creates a service with that name."""
_UNSUPPORTED = "message with an unsupported operation"

SUPPORTED = frozenset(oasis_xml.bare(Operation(number).name) for number in OPERATIONS)


@dataclass(frozen=True)
class Difference:
    """A deliberate difference from the expected answer, and the products that could miss it."""

    reason: str
    missed_by: str = "none known"


REVOKED = Difference(
    "gets a key after it was compromised, which only the policy revoked_keys_readable permits",
    "storage that must read old data after its key was reported as compromised",
)
_CREDENTIALS = Difference(
    "identifies callers by a credential in the message; this server uses only the certificate",
    "clients that share a certificate and have different passwords",
)
_LOCATIONS = Difference(
    "registers keys whose value is stored elsewhere", "an inventory of the keys of other key managers"
)
DIFFERENCES = {
    "SKFF_O_6_11": Difference("expects an attribute that the case does not set", "none: the case is wrong"),
    **dict.fromkeys(
        ("SKFF_M_9_", "SKFF_M_10_", "SKFF_M_11_", "SKFF_M_12_", "SKFF_O_3_", "SKFF_O_6_", "TC_41_"), REVOKED
    ),
    **dict.fromkeys(("TC_111_", "TC_112_"), _CREDENTIALS),
    **dict.fromkeys(
        ("TC_32_", "TC_101_"), Difference("requires an asynchronous response", "clients that poll for a result")
    ),
    "TC_122_": Difference("expects the extensions of a certain vendor", "none: they concern only that vendor"),
    "TC_142_": Difference(
        "expects a wrapped key without the requested attribute and without TTLV encoding",
        "none: the answer contradicts the request",
    ),
    **dict.fromkeys(
        ("TC_ECC_3_10", "TC_ECC_3_11"),
        Difference("expects another private key than the one it registered", "none: the case is wrong"),
    ),
    "TC_151_": Difference("expects objects that no client created", "none: they are those of one recording"),
    "TC_153_": Difference("expects the policy of a certain server for the order of a group"),
    "TC_ECC_2_12": Difference("expects the server to decrypt PKCS #8 with a stored password"),
    "TC_MDO_": _LOCATIONS,
    "TC_SJ_3_": Difference("registers the parts of a split key", "clients that split keys"),
    "CS_BC_M_7_12_Encrypt_with_All": Difference(
        "is not an exchange but a sample of fields, for an object that was never created", "none: the case is wrong"
    ),
    "TC-SK-CREATE": Difference(
        "encrypts with a key that was never activated", "clients that use keys without Activate or an activation date"
    ),
}
"""Deliberate differences of supported operations, by the beginning of the case's name."""


@dataclass(frozen=True)
class Report:
    outcome: str
    """`pass`, `fail` or `not supported`."""
    reason: str = ""
    deliberate: bool = False


def unsupported(names: Iterable[str]) -> list[str]:
    """Return those of the operations that are not supported."""
    return sorted(name for name in names if oasis_xml.bare(name) not in SUPPORTED)


def difference(case: Case) -> Difference | None:
    title = case.name.partition("/")[2]
    return next((found for begins, found in DIFFERENCES.items() if title.startswith(begins)), None)


async def run_all(open_service: Open, chosen: Callable[[Case], bool]) -> dict[str, tuple[Report, list[str]]]:
    """Return the report of each chosen case and its differences."""
    answers: dict[str, Answer] = {}
    reports = {}
    for case in filter(chosen, oasis_xml.cases()):
        group = _group(case)
        if group not in answers:
            answers[group] = open_service(f"case-{len(answers)}")
        wrong = await _run(case, answers[group])
        reports[case.name] = _report(case, wrong), wrong
    return reports


def _report(case: Case, wrong: list[str]) -> Report:
    """Report a case; it fails if a supported operation answers otherwise, deliberately or not."""
    deliberate = difference(case)
    if not wrong:
        return Report("pass")
    if deliberate is not None:
        return Report("fail", f"{deliberate.reason}; missed by: {deliberate.missed_by}", deliberate=True)
    missing = unsupported(case.operations)
    if missing and wrong[0].startswith(_UNSUPPORTED):
        return Report("not supported", ", ".join(missing))
    return Report("fail", wrong[0])


async def _run(case: Case, answer: Answer) -> list[str]:
    comparison = CaseComparison(Known(_time(case.exchanges[0][1])))
    for place, (request, expected) in enumerate(case.exchanges):
        comparison.known.now = _time(expected)
        try:
            item = oasis_xml.item(request, comparison.known)
            comparison.record_request(item)
            response = await answer(ttlv.decode(ttlv.encode(item)), _time(expected))
            wrong = comparison.differences(request, expected, ttlv.decode(ttlv.encode(response)))
        except KeyError as unknown:
            wrong = [f"names {unknown}, which no answer gave a value"]
        if wrong:
            begins = _UNSUPPORTED if unsupported(oasis_xml.operations_of(request)) else "message"
            return [f"{begins} {place}: {text}" for text in wrong]
    return []


def _time(expected: Node) -> int:
    """Return the time at which a response was recorded."""
    stamp = next(node for node in expected.walk() if node.tag == Tag.TIME_STAMP)
    return int(str(oasis_xml.value(stamp, Known(0))))


def _group(case: Case) -> str:
    version, _, title = case.name.partition("/")
    profile = title.partition("_")[0]
    return f"{version}/{profile}" if profile in ("TL", "SASED") else case.name


def summary(reports: dict[str, tuple[Report, list[str]]]) -> str:
    """Return a line for each case, and the counts."""
    lines = [f"{report.outcome:<13} {name}  {report.reason}".rstrip() for name, (report, _) in reports.items()]
    counts = Counter(report.outcome for report, _ in reports.values())
    return "\n".join([*lines, ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))])
