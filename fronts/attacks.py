"""`interfaces.FrontProbe` over the real doors."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from fronts.between import Owner, on_another_service, on_another_tenant, out_of_place
from fronts.dialing import NotAdmitted
from fronts.https import ENDED as HTTPS_ENDED
from fronts.https import Answer as HttpsAnswer
from fronts.https import HttpsDoor
from fronts.interfaces import FrontsFailing, Identity, Pair, ProbeRefused, Strangers
from fronts.judging import ALIKE, NO_SERVICE, NO_TLS, Trial, Verdicts
from fronts.kmip import ENDED as KMIP_ENDED
from fronts.kmip import Answer as KmipAnswer
from fronts.kmip import Operation, Reason
from fronts.recording import recorded_trials
from fronts.sides import Address, Side, is_not_there
from tenancy.boundaries import CheckResult

_REVOKED_SECONDS = 8.0
"""Within which every process of the crypto service has heard of it; milliseconds when the database is well."""
_PAUSE_SECONDS = 0.02
_WORKS_FOR_PROBE = "the platform's own service does the same in the same second"

_Knock = tuple[HttpsAnswer, KmipAnswer]


class FrontAttacker:
    """Connections are made for each call and closed at its end."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._kept: dict[str, str] = {}

    def attack_each_other(self, pair: Pair) -> Sequence[CheckResult]:
        verdicts = Verdicts()
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

    def attack_tenant(self, probe: Identity, strangers: Strangers, object_ids: Sequence[str]) -> Sequence[CheckResult]:
        verdicts = Verdicts()
        with Side(self._address, probe) as side:

            def trial(clause: str, name: str, refused: Callable[[], bool], wall: str) -> Trial:
                return Trial(clause, name, refused, side.works, side.works, wall, _WORKS_FOR_PROBE)

            uri, unrecorded = (self._knock(one) for one in (strangers.other_uri, strangers.unrecorded))
            verdicts.judge(
                (
                    trial("A3", "certificate-for-other-tenant", lambda: self._is_shut_out(strangers.for_other), NO_TLS),
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
        verdicts = Verdicts()
        with Side(self._address, probe) as side:
            verdicts.judge(recorded_trials(side, self._kept_key(side), recorded))
        return verdicts.results()

    def revoke(self, probe: Identity, revoke: Callable[[], None]) -> Sequence[CheckResult]:
        verdicts = Verdicts()
        with Side(self._address, probe) as side:
            if not side.works():
                raise ProbeRefused("a certificate that is to be revoked does not work before")
            revoke()
            end = time.monotonic() + _REVOKED_SECONDS
            works = "the same connection, and the same certificate, worked before"

            def ended() -> bool:
                return not side.https.encrypt("probe", b"x").worked and not side.kmip.query().worked

            verdicts.judge(
                (
                    Trial(
                        "REV",
                        "revoked-on-open-connection",
                        lambda: _until(end, ended),
                        lambda: True,
                        lambda: True,
                        "both connections that were open do nothing more",
                        works,
                    ),
                    Trial(
                        "REV",
                        "revoked-on-new-connection",
                        lambda: _until(end, lambda: _opens_nothing(self._knock(probe))),
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
        with Side(self._address, identity) as side:
            owner = Owner(side, side.settle())
            yield owner
            side.clear(owner.has)

    def _kept_key(self, side: Side) -> str:
        """Return the key that a service keeps; looked for once for each certificate."""
        serial = side.identity.serial
        if serial not in self._kept:
            self._kept = {serial: side.kept_key()}
        return self._kept[serial]

    def _knock(self, identity: Identity) -> _Knock:
        """Return what each door answers to a first request, which asks for nothing of anybody's.

        Raises: FrontsFailing when a door answers nothing at all, which is not how a certificate is refused.
        """
        try:
            with self._address.https(identity) as https, self._address.kmip(identity) as kmip:
                knock = https.encrypt("probe", b"x"), kmip.query()
        except NotAdmitted as shut:
            raise FrontsFailing("the connection was ended where a refusal was to come") from shut
        if not knock[0].status or knock[1].message is None:
            raise FrontsFailing("the connection was ended where a refusal was to come")
        return knock

    def _is_shut_out(self, identity: Identity) -> bool:
        """Whether neither door lets an identity through its handshake, or answers it anything."""
        for door in (self._address.https, self._address.kmip):
            try:
                with door(identity) as opened:
                    answer = opened.encrypt("probe", b"x") if isinstance(opened, HttpsDoor) else opened.query()
            except NotAdmitted:
                continue
            if answer not in (HTTPS_ENDED, KMIP_ENDED):
                return False
        return True


def _opens_nothing(knock: _Knock) -> bool:
    https, kmip = knock
    return https.code == "caller_refused" and kmip.reason == Reason.PERMISSION_DENIED


def _asking(side: Side, own: str, object_ids: Sequence[str]) -> Trial:
    nobody = str(uuid.uuid4())

    def not_there() -> bool:
        never = {one: side.kmip.about(one, nobody) for one in (Operation.GET, Operation.GET_ATTRIBUTES)}
        return all(
            is_not_there(side.kmip.about(operation, object_id), answer)
            for operation, answer in never.items()
            for object_id in object_ids
        )

    return Trial(
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
