"""Runs the OASIS cases: pass, fail, or out of scope with a reason for each.

Each request passes as bytes through the codec and the dispatcher and back, as on a connection. Every case has a
separate service, except for cases that continue where the previous one ended. The server's clock is set to the time at
which the case was recorded, so that keys expire as they did then.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crypto_service.kmip.codec import framing, ttlv
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

SUPPORTED = frozenset(oasis_xml.bare(Operation(number).name) for number in OPERATIONS)
OUT_OF_SCOPE = {
    **dict.fromkeys(
        ("SKFF_M_9_", "SKFF_M_10_", "SKFF_M_11_", "SKFF_M_12_", "SKFF_O_3_", "SKFF_O_6_", "TC_41_"),
        "gets a key after it was compromised, which this server rejects on purpose",
    ),
    **dict.fromkeys(
        ("TC_111_", "TC_112_"),
        "identifies callers by a credential in the message; this server uses only the certificate",
    ),
    "TC_122_": "expects the extensions of a certain vendor",
    "TC_142_": "expects a wrapped key without the requested attribute and without TTLV encoding",
    **dict.fromkeys(("TC_ECC_3_10", "TC_ECC_3_11"), "expects another private key than the one it registered"),
    "TC_151_": "expects objects that no client created",
    "TC_153_": "expects the policy of a certain server for the order of a group",
    "TC_ECC_2_12": "expects the server to decrypt PKCS #8 with a stored password",
    "TC_MDO_": "registers keys whose value is stored elsewhere",
    "CS_BC_M_7_12_Encrypt_with_All": "is not an exchange but a sample of fields, for an object that was never created",
    "TC-SK-CREATE": "encrypts with a key that was never activated",
}
"""Cases of supported operations that require unsupported behaviour: beginning of the name → reason."""


@dataclass(frozen=True)
class Report:
    outcome: str
    """`pass`, `fail` or `out of scope`."""
    reason: str = ""


def scope(case: Case) -> str:
    """Return why a case is out of scope; empty when it must pass."""
    operations = sorted(name for name in case.operations if oasis_xml.bare(name) not in SUPPORTED)
    if operations:
        return f"operations not supported: {', '.join(operations)}"
    title = case.name.partition("/")[2]
    return next((reason for begins, reason in OUT_OF_SCOPE.items() if title.startswith(begins)), "")


async def run_all(open_service: Open) -> dict[str, tuple[Report, list[str]]]:
    """Return the report of each case and its differences."""
    answers: dict[str, Answer] = {}
    reports = {}
    for case in oasis_xml.cases():
        group = _group(case)
        if group not in answers:
            answers[group] = open_service(f"case-{len(answers)}")
        wrong = await _run(case, answers[group])
        reason = scope(case)
        outcome = "out of scope" if reason else "fail" if wrong else "pass"
        reports[case.name] = Report(outcome, reason or "; ".join(wrong[:1])), wrong
    return reports


async def _run(case: Case, answer: Answer) -> list[str]:
    comparison = CaseComparison(Known(_time(case.exchanges[0][1])))
    for place, (request, expected) in enumerate(case.exchanges):
        comparison.known.now = _time(expected)
        try:
            item = oasis_xml.item(request, comparison.known)
            comparison.record_request(item)
            response = await answer(ttlv.decode(ttlv.encode(item)), _time(expected))
            wrong = comparison.differences(request, expected, ttlv.decode(framing.reply(item, response)))
        except KeyError as unknown:
            wrong = [f"names {unknown}, which no answer gave a value"]
        if wrong:
            return [f"message {place}: {text}" for text in wrong]
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
