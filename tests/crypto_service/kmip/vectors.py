"""Runs the OASIS cases: pass, fail, or out of scope with the reason for each.

Each request travels as bytes through the codec, the dispatcher and back, as on a connection. Every case has a service
of its own, but those that continue where the one before ended. The server's clock shows the time at which the case was
recorded, so keys expire when they did.
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
from tests.crypto_service.kmip.oasis_compare import Judge
from tests.crypto_service.kmip.oasis_xml import Case, Known, Node

Answer = Callable[[Item, int], Awaitable[Item]]
"""How a service asks; the number is what time it is."""
Open = Callable[[str], Answer]
"""Makes a service of that name."""

SERVED = frozenset(oasis_xml.bare(Operation(number).name) for number in OPERATIONS)
OUT_OF_SCOPE = {
    **dict.fromkeys(
        ("SKFF_M_9_", "SKFF_M_10_", "SKFF_M_11_", "SKFF_M_12_", "SKFF_O_3_", "SKFF_O_6_", "TC_41_"),
        "gets a key after it was compromised, which is refused here on purpose",
    ),
    **dict.fromkeys(
        ("TC_111_", "TC_112_"), "tells callers apart by a credential in the message; here a certificate alone does"
    ),
    "TC_122_": "expects the extensions of a certain vendor",
    "TC_142_": "expects a wrapped key that holds neither the attribute it asks for nor the TTLV encoding",
    **dict.fromkeys(("TC_ECC_3_10", "TC_ECC_3_11"), "expects another private key than the one it registered"),
    "TC_151_": "expects objects that no client made",
    "TC_153_": "expects the policy of a certain server for the order of a group",
    "TC_ECC_2_12": "expects the server to decrypt PKCS #8 with a password it holds",
    "TC_MDO_": "registers keys whose value is kept elsewhere",
    "CS_BC_M_7_12_Encrypt_with_All": "is no exchange: a sample of fields, about an object that was never made",
    "TC-SK-CREATE": "encrypts with a key that was never activated",
}
"""Cases of served operations that ask for something else which is not: beginning of the name → reason."""


@dataclass(frozen=True)
class Report:
    outcome: str
    """`pass`, `fail` or `out of scope`."""
    reason: str = ""


def scope(case: Case) -> str:
    """Return why a case is not asked to pass, nothing when it is."""
    operations = sorted(name for name in case.operations if oasis_xml.bare(name) not in SERVED)
    if operations:
        return f"operations not served: {', '.join(operations)}"
    title = case.name.partition("/")[2]
    return next((reason for begins, reason in OUT_OF_SCOPE.items() if title.startswith(begins)), "")


async def run_all(open_service: Open) -> dict[str, tuple[Report, list[str]]]:
    """Return the report of each case, and what was wrong in it."""
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
    judge = Judge(Known(_time(case.exchanges[0][1])))
    for place, (request, expected) in enumerate(case.exchanges):
        judge.known.now = _time(expected)
        try:
            asked = oasis_xml.item(request, judge.known)
            judge.asked(asked)
            response = await answer(ttlv.decode(ttlv.encode(asked)), _time(expected))
            wrong = judge.differences(request, expected, ttlv.decode(framing.reply(asked, response)))
        except KeyError as unknown:
            wrong = [f"names {unknown}, which no answer gave a value"]
        if wrong:
            return [f"message {place}: {text}" for text in wrong]
    return []


def _time(expected: Node) -> int:
    """Return when a response was recorded."""
    stamp = next(node for node in expected.walk() if node.tag == Tag.TIME_STAMP)
    return int(str(oasis_xml.value(stamp, Known(0))))


def _group(case: Case) -> str:
    version, _, title = case.name.partition("/")
    profile = title.partition("_")[0]
    return f"{version}/{profile}" if profile in ("TL", "SASED") else case.name


def summary(reports: dict[str, tuple[Report, list[str]]]) -> str:
    """Return a line for each case and the counts."""
    lines = [f"{report.outcome:<13} {name}  {report.reason}".rstrip() for name, (report, _) in reports.items()]
    counts = Counter(report.outcome for report, _ in reports.values())
    return "\n".join([*lines, ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))])
