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
from fronts.interfaces import Identity, Pair, ProbeRefused, Strangers
from fronts.judging import ALIKE, NO_SERVICE, NO_TLS, Trial, Verdicts
from fronts.kmip import ENDED as KMIP_ENDED
from fronts.kmip import Answer as KmipAnswer
from fronts.kmip import Operation, Reason
from fronts.sides import Address, Side, is_not_there, worked
from tenancy.boundaries import CheckResult

_ON_RECORD_SECONDS = 10.0
_REVOKED_SECONDS = 5.0
"""Within which every process of the crypto service has heard of it; milliseconds when the database is well."""
_PAUSE_SECONDS = 0.02
_WORKS_FOR_PROBE = "the platform's own service does the same in the same second"

_Knock = tuple[HttpsAnswer, KmipAnswer]
_SHUT: _Knock = HTTPS_ENDED, KMIP_ENDED


class FrontAttacker:
    """Connections are made for each call and closed at its end."""

    def __init__(self, address: Address) -> None:
        self._address = address

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

    def come_as_strangers(self, probe: Identity, strangers: Strangers) -> Sequence[CheckResult]:
        verdicts = Verdicts()
        with Side(self._address, probe) as side:

            def trial(clause: str, name: str, refused: Callable[[], bool], wall: str) -> Trial:
                return Trial(clause, name, refused, side.works, wall, _WORKS_FOR_PROBE)

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
        return verdicts.results()

    def ask_for(self, probe: Identity, object_ids: Sequence[str]) -> Sequence[CheckResult]:
        verdicts = Verdicts()
        if object_ids:
            with Side(self._address, probe) as side:
                verdicts.judge([_asking(side, object_ids)])
        return verdicts.results()

    def see_on_record(self, probe: Identity, recorded: Callable[[str], bool]) -> Sequence[CheckResult]:
        verdicts = Verdicts()
        with Side(self._address, probe) as side:
            done, refused = _correlated(side)
            verdicts.judge((_recorded("operations", done, recorded), _recorded("refusals", refused, recorded)))
        return verdicts.results()

    def revoke(self, probe: Identity, revoke: Callable[[], None]) -> Sequence[CheckResult]:
        verdicts = Verdicts()
        with Side(self._address, probe) as side:
            if not side.works():
                raise ProbeRefused("a certificate that is to be revoked does not work before")
            revoke()
            works = "the same connection, and the same certificate, worked before"

            def ended() -> bool:
                return not side.https.encrypt("probe", b"x").worked and not side.kmip.locate().worked

            verdicts.judge(
                (
                    Trial(
                        "REV",
                        "revoked-on-open-connection",
                        lambda: _within(_REVOKED_SECONDS, ended),
                        lambda: True,
                        "both connections that were open do nothing more",
                        works,
                    ),
                    Trial(
                        "REV",
                        "revoked-on-new-connection",
                        lambda: _within(_REVOKED_SECONDS, lambda: _opens_nothing(self._knock(probe))),
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

    def _knock(self, identity: Identity) -> _Knock:
        """Return what each door answers to a first request, which asks for nothing of anybody's."""
        try:
            with self._address.https(identity) as https, self._address.kmip(identity) as kmip:
                return https.encrypt("probe", b"x", {"x-request-id": "knock"}), kmip.locate()
        except NotAdmitted:
            return _SHUT

    def _is_shut_out(self, identity: Identity) -> bool:
        """Whether neither door lets an identity through its handshake, or answers it anything."""
        for door in (self._address.https, self._address.kmip):
            try:
                with door(identity) as opened:
                    answer = opened.encrypt("probe", b"x") if isinstance(opened, HttpsDoor) else opened.locate()
            except NotAdmitted:
                continue
            if answer not in _SHUT:
                return False
        return True


def _opens_nothing(knock: _Knock) -> bool:
    https, kmip = knock
    return https.code == "caller_refused" and kmip.reason == Reason.PERMISSION_DENIED


def _asking(side: Side, object_ids: Sequence[str]) -> Trial:
    own, nobody = side.kept_key(), str(uuid.uuid4())

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
        ALIKE,
        "the platform's own service reads its own object in the same second",
    )


def _recorded(what: str, ids: Sequence[str], recorded: Callable[[str], bool]) -> Trial:
    return Trial(
        "REQ-011",
        f"{what}-on-record",
        lambda: _within(_ON_RECORD_SECONDS, lambda: all(map(recorded, ids))),
        lambda: not recorded(uuid.uuid4().hex),
        "they stand in the tenant's audit stream within seconds, from both doors",
        "what was never done does not stand there",
    )


def _correlated(side: Side) -> tuple[Sequence[str], Sequence[str]]:
    """Do something that works and something that is refused at each door; return the ids by which each is known."""
    key = side.kept_key()
    done = [uuid.uuid4().hex for _ in range(2)]
    refused = [uuid.uuid4().hex for _ in range(2)]
    worked(side.https.post("/v1/data-keys", {"resource": "probe"}, {"x-request-id": done[0]}))
    worked(side.kmip.about(Operation.GET, key, done[1]))
    side.https.post("/v1/decrypt", {"resource": "probe", "ciphertext": "nobody made it"}, {"x-request-id": refused[0]})
    side.kmip.about(Operation.GET, str(uuid.uuid4()), refused[1])
    return done, refused


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True
