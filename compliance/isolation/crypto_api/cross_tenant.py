"""The attacks of one service on another: of another tenant, of the same, and on its own things in the wrong place."""

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compliance.isolation.crypto_api.kmip_client import Operation, Sealed
from compliance.isolation.crypto_api.model import ALIKE, AccessTest
from compliance.isolation.crypto_api.session import (
    ProbeFixtures,
    ProbeSession,
    altered,
    is_not_decrypted,
    is_not_opened,
    is_not_there,
)
from openkcm.contract.names import tenant_dns

_READS = (Operation.GET, Operation.GET_ATTRIBUTES)
_CHANGES = (Operation.ACTIVATE, Operation.REVOKE, Operation.DESTROY)
_CLAIMS = ("x-tenant-id", "x-openkcm-tenant", "x-forwarded-client-cert", "x-ssl-client-s-dn", "forwarded", "from")
"""Headers by which proxies and other products say who is calling."""
_OPENS_FOR_OWNER = "its owner opens it in the same second"
_IS_THERE_FOR_OWNER = "its owner reads it in the same second"


@dataclass(frozen=True, slots=True)
class Owner:
    """A service and what it made."""

    side: ProbeSession
    has: ProbeFixtures

    @property
    def tenant_id(self) -> str:
        return self.side.identity.tenant_id

    def opens_text(self) -> bool:
        answer = self.side.https.decrypt(self.has.resource, self.has.ciphertext)
        return answer.worked and answer.octets("plaintext") == self.has.plaintext

    def opens_data_key(self) -> bool:
        answer = self.side.https.open_data_key(self.has.resource, self.has.wrapped)
        return answer.worked and answer.octets("plaintext") == self.has.data_key

    def opens_sealed(self) -> bool:
        return self.side.kmip.decrypt(self.has.key, self.has.sealed).data() == self.has.plaintext

    def reads_key(self) -> bool:
        return self.side.kmip.about(Operation.GET, self.has.key).worked


def on_another_tenant(thief: Owner, victim: Owner) -> Iterator[AccessTest]:
    """Yield every attack on what is another tenant's."""
    yield _decrypt("C2", "https-decrypt-other-tenant", thief, victim)
    yield _rewrap("C3", "https-rewrap-other-tenant", thief, victim)
    yield _open_data_key("A2", "https-open-data-key-other-tenant", thief, victim)
    yield _decrypt_sealed("C3", "kmip-decrypt-other-tenant", thief, victim)
    yield _objects("M1", "kmip-read-other-tenant", thief, victim, _reads_refused)
    yield _objects("A3", "kmip-change-other-tenant", thief, victim, _changes_refused)
    yield _locate("A3", "kmip-locate-other-tenant", thief, victim)
    yield _claim_in_headers(thief, victim)
    yield _claim_in_payload(thief, victim)


def on_another_service(thief: Owner, victim: Owner) -> Iterator[AccessTest]:
    """Yield every attack on what is another service's of the same tenant."""
    yield _decrypt("U5", "https-decrypt-other-service", thief, victim)
    yield _open_data_key("E3", "https-open-data-key-other-service", thief, victim)
    yield _decrypt_sealed("U5", "kmip-decrypt-other-service", thief, victim)
    yield _objects("U5", "kmip-read-other-service", thief, victim, _reads_refused)
    yield _objects("U5", "kmip-change-other-service", thief, victim, _changes_refused)
    yield _locate("U5", "kmip-locate-other-service", thief, victim)


def out_of_place(owner: Owner) -> Iterator[AccessTest]:
    """Yield attempts of a service to open what is its own in another place than it was made for."""
    https, has = owner.side.https, owner.has
    elsewhere = f"{has.resource}/elsewhere"
    yield AccessTest(
        "C1",
        "https-decrypt-other-resource",
        lambda: is_not_opened(https.decrypt(elsewhere, has.ciphertext), https.decrypt(elsewhere, _never(has))),
        owner.opens_text,
        owner.side.works,
        ALIKE,
        "it opens for its own resource",
    )
    yield AccessTest(
        "C1",
        "https-open-data-key-other-resource",
        lambda: is_not_opened(https.open_data_key(elsewhere, has.wrapped), https.decrypt(elsewhere, _never(has))),
        owner.opens_data_key,
        owner.side.works,
        ALIKE,
        "it opens for its own resource",
    )
    yield AccessTest(
        "C1",
        "https-decrypt-data-key-as-data",
        lambda: is_not_opened(https.decrypt(has.resource, has.wrapped), https.decrypt(has.resource, _never(has))),
        owner.opens_data_key,
        owner.side.works,
        ALIKE,
        "it opens as the data key that it is",
    )
    kmip = owner.side.kmip
    yield AccessTest(
        "C1",
        "kmip-decrypt-other-object",
        lambda: is_not_decrypted(
            kmip.decrypt(has.spare, has.sealed), kmip.decrypt(has.spare, _never_sealed(has.sealed))
        ),
        owner.opens_sealed,
        owner.side.works,
        ALIKE,
        "it opens under its own object",
    )


def _never(has: ProbeFixtures) -> str:
    return altered(has.ciphertext)


def _never_sealed(sealed: Sealed) -> Sealed:
    return dataclasses.replace(sealed, tag=bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:])


def _decrypt(clause: str, name: str, thief: Owner, victim: Owner) -> AccessTest:
    https, has = thief.side.https, victim.has

    def refused() -> bool:
        never = https.decrypt(has.resource, _never(thief.has))
        return is_not_opened(https.decrypt(has.resource, has.ciphertext), never)

    return AccessTest(clause, name, refused, victim.opens_text, thief.side.works, ALIKE, _OPENS_FOR_OWNER)


def _rewrap(clause: str, name: str, thief: Owner, victim: Owner) -> AccessTest:
    https, has = thief.side.https, victim.has

    def refused() -> bool:
        never = https.rewrap(has.resource, _never(thief.has))
        return is_not_opened(https.rewrap(has.resource, has.ciphertext), never)

    def control() -> bool:
        return victim.side.https.rewrap(has.resource, has.ciphertext).worked

    return AccessTest(
        clause, name, refused, control, thief.side.works, ALIKE, "its owner has it re-wrapped in the same second"
    )


def _open_data_key(clause: str, name: str, thief: Owner, victim: Owner) -> AccessTest:
    https, has = thief.side.https, victim.has

    def refused() -> bool:
        never = https.open_data_key(has.resource, altered(thief.has.wrapped))
        return is_not_opened(https.open_data_key(has.resource, has.wrapped), never)

    return AccessTest(clause, name, refused, victim.opens_data_key, thief.side.works, ALIKE, _OPENS_FOR_OWNER)


def _decrypt_sealed(clause: str, name: str, thief: Owner, victim: Owner) -> AccessTest:
    """What the victim's object sealed, under the thief's own object."""
    kmip, own, stolen = thief.side.kmip, thief.has, victim.has.sealed

    def refused() -> bool:
        never = kmip.decrypt(own.key, _never_sealed(stolen))
        return is_not_decrypted(kmip.decrypt(own.key, stolen), never)

    return AccessTest(clause, name, refused, victim.opens_sealed, thief.side.works, ALIKE, _OPENS_FOR_OWNER)


def _objects(
    clause: str, name: str, thief: Owner, victim: Owner, refused: Callable[[Owner, Owner], bool]
) -> AccessTest:
    return AccessTest(
        clause, name, lambda: refused(thief, victim), victim.reads_key, thief.side.works, ALIKE, _IS_THERE_FOR_OWNER
    )


def _reads_refused(thief: Owner, victim: Owner) -> bool:
    kmip, has, nobody = thief.side.kmip, victim.has, str(uuid.uuid4())
    return all(
        (
            *(is_not_there(kmip.about(one, has.key), kmip.about(one, nobody)) for one in _READS),
            is_not_there(kmip.encrypt(has.key, b"x"), kmip.encrypt(nobody, b"x")),
            is_not_there(kmip.decrypt(has.key, has.sealed), kmip.decrypt(nobody, has.sealed)),
        )
    )


def _changes_refused(thief: Owner, victim: Owner) -> bool:
    kmip, nobody = thief.side.kmip, str(uuid.uuid4())
    return all(is_not_there(kmip.about(one, victim.has.key), kmip.about(one, nobody)) for one in _CHANGES)


def _locate(clause: str, name: str, thief: Owner, victim: Owner) -> AccessTest:
    kmip, has = thief.side.kmip, victim.has

    def refused() -> bool:
        by_name, everything = kmip.locate(has.name), kmip.locate()
        unknown = kmip.locate(f"probe {uuid.uuid4().hex}")
        return by_name == unknown and everything.worked and not {has.key, has.spare} & set(everything.ids())

    def control() -> bool:
        return victim.side.kmip.locate(has.name).ids() == [has.key]

    return AccessTest(
        clause,
        name,
        refused,
        control,
        thief.side.works,
        "nothing is found, as for a name that nobody gave",
        "its owner finds it",
    )


def _claim_in_headers(thief: Owner, victim: Owner) -> AccessTest:
    """What is encrypted while claiming to be the victim must be the thief's own, and open for nobody else."""
    has, name = victim.has, f"{victim.tenant_id}/{victim.side.identity.service}"
    claims = dict.fromkeys(_CLAIMS, name) | {
        "authorization": f"Bearer {name}",
        "host": tenant_dns(victim.tenant_id),
    }
    made: list[str] = []

    def refused() -> bool:
        answer = thief.side.https.encrypt(has.resource, has.plaintext, claims)
        made.append(answer.text("ciphertext"))
        theirs = victim.side.https
        return answer.worked and is_not_opened(
            theirs.decrypt(has.resource, made[-1]), theirs.decrypt(has.resource, altered(made[-1]))
        )

    def control() -> bool:
        opened = thief.side.https.decrypt(has.resource, made[-1])
        return opened.worked and opened.octets("plaintext") == has.plaintext

    wall = "headers that claim another tenant change nothing: what is made does not open for the one that was claimed"
    return AccessTest(
        "A1", "https-claim-in-headers", refused, control, thief.side.works, wall, "it opens for whoever made it"
    )


def _claim_in_payload(thief: Owner, victim: Owner) -> AccessTest:
    has, claim = victim.has, {"tenant_id": victim.tenant_id}
    plain = {"resource": has.resource, "ciphertext": has.ciphertext}

    def refused() -> bool:
        answer = thief.side.https.post("/v1/decrypt", plain | claim)
        return answer.code == "invalid_request"

    wall = "a request that names a tenant is refused: there is no field for it"
    return AccessTest(
        "A1",
        "https-claim-in-payload",
        refused,
        victim.opens_text,
        thief.side.works,
        wall,
        "without the claim its owner opens it",
    )
