"""Isolation checks through the real APIs of the crypto service."""

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

from compliance.isolation.crypto_api.audit_check import recorded_trials
from compliance.isolation.crypto_api.cross_tenant import Owner, on_another_service, on_another_tenant, out_of_place
from compliance.isolation.crypto_api.https_client import ENDED as HTTPS_ENDED
from compliance.isolation.crypto_api.https_client import Answer as HttpsAnswer
from compliance.isolation.crypto_api.kmip_client import ENDED as KMIP_ENDED
from compliance.isolation.crypto_api.kmip_client import Answer as KmipAnswer
from compliance.isolation.crypto_api.kmip_client import Operation, Reason
from compliance.isolation.crypto_api.model import (
    ALIKE,
    NO_SERVICE,
    NO_TLS,
    AccessTest,
    CryptoApiFailing,
    ForgedIdentities,
    Identity,
    ListenerProtocol,
    Pair,
    ProbeRefused,
    TestResults,
)
from compliance.isolation.crypto_api.session import Endpoints, ProbeSession, SessionPool, is_not_there
from compliance.isolation.crypto_api.tls_client import HandshakeRejected
from core.isolation import CheckResult

_REVOKED_SECONDS = 8.0
"""Time within which every process must apply a revocation; it takes milliseconds with a healthy database."""
_PAUSE_SECONDS = 0.02
_WORKS_FOR_PROBE = "the same request of the probe service succeeds in the same second"

_Answers = Sequence[HttpsAnswer | KmipAnswer]


class CryptoApiSuite:
    """Runs the checks. Attackers use new connections for each call; positive controls reuse pooled sessions."""

    def __init__(self, address: Endpoints) -> None:
        self._address = address
        self._sides = SessionPool(address)
        self._kept: dict[str, str] = {}

    def attack_each_other(self, pair: Pair) -> Sequence[CheckResult]:
        """Let each probe service attack all test data of the others."""
        verdicts = TestResults()
        with ExitStack() as stack:
            one, sibling, other = (
                stack.enter_context(self._owner(identity)) for identity in (pair.one, pair.sibling, pair.other)
            )
            for attacker, victim in ((other, one), (one, other)):
                verdicts.judge(on_another_tenant(attacker, victim))
            for attacker, victim in ((sibling, one), (one, sibling)):
                verdicts.judge(on_another_service(attacker, victim))
            for owner in (one, sibling, other):
                verdicts.judge(out_of_place(owner))
        return verdicts.results()

    def attack_tenant(
        self,
        probe: Identity,
        forged: ForgedIdentities,
        object_ids: Sequence[str],
        protocols: Collection[ListenerProtocol],
    ) -> Sequence[CheckResult]:
        """Attack a tenant with forged certificates, and let `probe` request the tenant's objects by their real ids.

        `probe` is a service of another tenant and also the positive control.
        """
        verdicts = TestResults()
        with self._sides.of(probe) as side:
            # All attacks run before the control, so that one control request follows each of them at once.
            handshake_rejected = self._is_handshake_rejected(forged.for_other, protocols)
            uri, unrecorded = (self._first_answers(one, protocols) for one in (forged.other_uri, forged.unrecorded))
            works = cache(side.works)

            def trial(clause: str, name: str, refused: Callable[[], bool], expected: str) -> AccessTest:
                return AccessTest(clause, name, refused, works, works, expected, _WORKS_FOR_PROBE)

            verdicts.judge(
                (
                    trial("A3", "certificate-for-other-tenant", lambda: handshake_rejected, NO_TLS),
                    trial(
                        "A1",
                        "certificate-not-recorded",
                        lambda: _all_rejected(unrecorded),
                        f"{NO_SERVICE} (serial {forged.unrecorded.serial})",
                    ),
                    trial(
                        "A1",
                        "certificate-with-other-tenant-in-uri",
                        lambda: _all_rejected(uri) and (uri == unrecorded or not _all_rejected(unrecorded)),
                        f"{NO_SERVICE}, as for an unrecorded certificate (serial {forged.other_uri.serial})",
                    ),
                )
            )
            if object_ids:
                verdicts.judge([_asking(side, self._kept_key(side), object_ids)])
        return verdicts.results()

    def verify_recorded(self, probe: Identity, recorded: Callable[[str], bool]) -> Sequence[CheckResult]:
        """Send requests to each API and wait until `recorded` returns True for their correlation ids."""
        verdicts = TestResults()
        with ProbeSession(self._address, probe) as side:
            verdicts.judge(recorded_trials(side, self._kept_key(side), recorded))
        return verdicts.results()

    def revoke(self, probe: Identity, revoke: Callable[[], None]) -> Sequence[CheckResult]:
        """Revoke a certificate during open connections, then use it on these and on new connections."""
        verdicts = TestResults()
        with ProbeSession(self._address, probe) as side:
            if not side.works():
                raise ProbeRefused("the certificate does not work before its revocation")
            revoke()
            end = time.monotonic() + _REVOKED_SECONDS
            control_text = "the same connection and the same certificate worked before the revocation"

            def ended() -> bool:
                return not side.https.encrypt("probe", b"x").worked and not side.kmip.query().worked

            verdicts.judge(
                (
                    AccessTest(
                        "REV",
                        "revoked-on-open-connection",
                        lambda: _until(end, ended),
                        lambda: True,
                        lambda: True,
                        "both open connections reject further requests",
                        control_text,
                    ),
                    AccessTest(
                        "REV",
                        "revoked-on-new-connection",
                        lambda: _until(end, lambda: _all_rejected(self._first_answers(probe, tuple(ListenerProtocol)))),
                        lambda: True,
                        lambda: True,
                        NO_SERVICE,
                        control_text,
                    ),
                )
            )
        return verdicts.results()

    @contextmanager
    def _owner(self, identity: Identity) -> Iterator[Owner]:
        with ProbeSession(self._address, identity) as side:
            owner = Owner(side, side.create_fixtures())
            yield owner
            side.clear(owner.fixtures)

    def _kept_key(self, side: ProbeSession) -> str:
        """Return the kept key of a service; located once for each certificate."""
        serial = side.identity.serial
        if serial not in self._kept:
            self._kept = {serial: side.kept_key()}
        return self._kept[serial]

    def _first_answers(self, identity: Identity, protocols: Collection[ListenerProtocol]) -> _Answers:
        """Return the answer of each API to a first request that uses no data of a tenant.

        Raises:
            CryptoApiFailing: an API closed the connection instead of a rejection with an answer.
        """
        try:
            answers = [self._ask(identity, protocol) for protocol in protocols]
        except HandshakeRejected as ended:
            raise CryptoApiFailing("the service closed the connection instead of a rejection") from ended
        if any(map(_is_end, answers)):
            raise CryptoApiFailing("the service closed the connection instead of a rejection")
        return answers

    def _is_handshake_rejected(self, identity: Identity, protocols: Collection[ListenerProtocol]) -> bool:
        """Return whether every API rejects the handshake of an identity, or closes the connection without an answer."""
        for protocol in protocols:
            try:
                answer = self._ask(identity, protocol)
            except HandshakeRejected:
                continue
            if not _is_end(answer):
                return False
        return True

    def _ask(self, identity: Identity, protocol: ListenerProtocol) -> HttpsAnswer | KmipAnswer:
        """Return the answer to a first request on a new connection; raises HandshakeRejected without an answer."""
        if protocol is ListenerProtocol.HTTPS:
            with self._address.https(identity) as https:
                return https.encrypt("probe", b"x")
        with self._address.kmip(identity) as kmip:
            return kmip.query()


def _is_end(answer: HttpsAnswer | KmipAnswer) -> bool:
    return answer in (HTTPS_ENDED, KMIP_ENDED)


def _all_rejected(knock: _Answers) -> bool:
    return all(
        answer.code == "client_not_authorized"
        if isinstance(answer, HttpsAnswer)
        else answer.reason == Reason.PERMISSION_DENIED
        for answer in knock
    )


def _asking(side: ProbeSession, own: str, object_ids: Sequence[str]) -> AccessTest:
    unknown = str(uuid.uuid4())

    def not_there() -> bool:
        never = {one: side.kmip.about(one, unknown) for one in (Operation.GET, Operation.GET_ATTRIBUTES)}
        return all(
            is_not_there(side.kmip.about(operation, object_id), answer)
            for operation, answer in never.items()
            for object_id in object_ids
        )

    return AccessTest(
        "M1",
        "kmip-objects-of-tenant",
        not_there,
        lambda: side.kmip.about(Operation.GET, own).worked,
        side.works,
        ALIKE,
        "the probe service reads its own object in the same second",
    )


def _until(end: float, true: Callable[[], bool]) -> bool:
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True
