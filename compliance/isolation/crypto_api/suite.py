"""`interfaces.FrontProbe` over the real doors."""

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
"""Within which every process of the crypto service has heard of it; milliseconds when the database is well."""
_PAUSE_SECONDS = 0.02
_WORKS_FOR_PROBE = "the platform's own service does the same in the same second"

_Knock = Sequence[HttpsAnswer | KmipAnswer]


class CryptoApiSuite:
    """Attackers' connections are made for each call and closed at its end; the control's are kept for a while."""

    def __init__(self, address: Endpoints) -> None:
        self._address = address
        self._sides = SessionPool(address)
        self._kept: dict[str, str] = {}

    def attack_each_other(self, pair: Pair) -> Sequence[CheckResult]:
        """Let the platform's services reach for everything of one another's."""
        verdicts = TestResults()
        with ExitStack() as stack:
            one, sibling, other = (
                stack.enter_context(self._settled(identity)) for identity in (pair.one, pair.sibling, pair.other)
            )
            for thief, victim in ((other, one), (one, other)):
                verdicts.judge(on_another_tenant(thief, victim))
            for thief, victim in ((sibling, one), (one, sibling)):
                verdicts.judge(on_another_service(thief, victim))
            for owner in (one, sibling, other):
                verdicts.judge(out_of_place(owner))
        return verdicts.results()

    def attack_tenant(
        self,
        probe: Identity,
        strangers: ForgedIdentities,
        object_ids: Sequence[str],
        doors: Collection[ListenerProtocol],
    ) -> Sequence[CheckResult]:
        """Knock at these doors with certificates that open nothing, and have `probe` ask for a tenant's objects.

        `probe` is another tenant's service, and the control; the objects are asked for by their real ids, where there
        are any.
        """
        verdicts = TestResults()
        with self._sides.of(probe) as side:
            # All knock before the control does, so that one of it is right after each of them.
            shut_out = self._is_shut_out(strangers.for_other, doors)
            uri, unrecorded = (self._knock(one, doors) for one in (strangers.other_uri, strangers.unrecorded))
            works = cache(side.works)

            def trial(clause: str, name: str, refused: Callable[[], bool], wall: str) -> AccessTest:
                return AccessTest(clause, name, refused, works, works, wall, _WORKS_FOR_PROBE)

            verdicts.judge(
                (
                    trial("A3", "certificate-for-other-tenant", lambda: shut_out, NO_TLS),
                    trial(
                        "A1",
                        "certificate-not-on-record",
                        lambda: _opens_nothing(unrecorded),
                        f"{NO_SERVICE} (serial {strangers.unrecorded.serial})",
                    ),
                    trial(
                        "A1",
                        "certificate-with-other-tenant-in-uri",
                        lambda: _opens_nothing(uri) and (uri == unrecorded or not _opens_nothing(unrecorded)),
                        f"{NO_SERVICE}, as for one that is not on record (serial {strangers.other_uri.serial})",
                    ),
                )
            )
            if object_ids:
                verdicts.judge([_asking(side, self._kept_key(side), object_ids)])
        return verdicts.results()

    def see_on_record(self, probe: Identity, recorded: Callable[[str], bool]) -> Sequence[CheckResult]:
        """Do one operation at each door and wait until `recorded` knows its correlation id."""
        verdicts = TestResults()
        with ProbeSession(self._address, probe) as side:
            verdicts.judge(recorded_trials(side, self._kept_key(side), recorded))
        return verdicts.results()

    def revoke(self, probe: Identity, revoke: Callable[[], None]) -> Sequence[CheckResult]:
        """Have a certificate revoked while connections with it are open; go on using it on those and on new ones."""
        verdicts = TestResults()
        with ProbeSession(self._address, probe) as side:
            if not side.works():
                raise ProbeRefused("a certificate that is to be revoked does not work before")
            revoke()
            end = time.monotonic() + _REVOKED_SECONDS
            works = "the same connection, and the same certificate, worked before"

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
                        "both connections that were open do nothing more",
                        works,
                    ),
                    AccessTest(
                        "REV",
                        "revoked-on-new-connection",
                        lambda: _until(end, lambda: _opens_nothing(self._knock(probe, tuple(ListenerProtocol)))),
                        lambda: True,
                        lambda: True,
                        NO_SERVICE,
                        works,
                    ),
                )
            )
        return verdicts.results()

    @contextmanager
    def _settled(self, identity: Identity) -> Iterator[Owner]:
        with ProbeSession(self._address, identity) as side:
            owner = Owner(side, side.settle())
            yield owner
            side.clear(owner.has)

    def _kept_key(self, side: ProbeSession) -> str:
        """Return the key that a service keeps; looked for once for each certificate."""
        serial = side.identity.serial
        if serial not in self._kept:
            self._kept = {serial: side.kept_key()}
        return self._kept[serial]

    def _knock(self, identity: Identity, doors: Collection[ListenerProtocol]) -> _Knock:
        """Return what each of these doors answers to a first request, which asks for nothing of anybody's.

        Raises: CryptoApiFailing when a door answers nothing at all, which is not how a certificate is refused.
        """
        try:
            knock = [self._ask(identity, door) for door in doors]
        except HandshakeRejected as shut:
            raise CryptoApiFailing("the connection was ended where a refusal was to come") from shut
        if any(map(_is_end, knock)):
            raise CryptoApiFailing("the connection was ended where a refusal was to come")
        return knock

    def _is_shut_out(self, identity: Identity, doors: Collection[ListenerProtocol]) -> bool:
        """Whether none of these doors lets an identity through its handshake, or answers it anything."""
        for door in doors:
            try:
                answer = self._ask(identity, door)
            except HandshakeRejected:
                continue
            if not _is_end(answer):
                return False
        return True

    def _ask(self, identity: Identity, door: ListenerProtocol) -> HttpsAnswer | KmipAnswer:
        """Return the answer to a first request on a new connection; raises HandshakeRejected when none arrives."""
        if door is ListenerProtocol.HTTPS:
            with self._address.https(identity) as https:
                return https.encrypt("probe", b"x")
        with self._address.kmip(identity) as kmip:
            return kmip.query()


def _is_end(answer: HttpsAnswer | KmipAnswer) -> bool:
    return answer in (HTTPS_ENDED, KMIP_ENDED)


def _opens_nothing(knock: _Knock) -> bool:
    return all(
        answer.code == "caller_refused"
        if isinstance(answer, HttpsAnswer)
        else answer.reason == Reason.PERMISSION_DENIED
        for answer in knock
    )


def _asking(side: ProbeSession, own: str, object_ids: Sequence[str]) -> AccessTest:
    nobody = str(uuid.uuid4())

    def not_there() -> bool:
        never = {one: side.kmip.about(one, nobody) for one in (Operation.GET, Operation.GET_ATTRIBUTES)}
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
        "the platform's own service reads its own object in the same second",
    )


def _until(end: float, true: Callable[[], bool]) -> bool:
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True
