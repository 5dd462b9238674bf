"""Attacks of a service on another tenant, on another service of its tenant, and on its own data out of context."""

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
"""Headers with which proxies and other products forward the identity of a caller."""
_OPENS_FOR_OWNER = "its owner decrypts it in the same second"
_IS_THERE_FOR_OWNER = "its owner reads it in the same second"


@dataclass(frozen=True, slots=True)
class Owner:
    """A service and its test data."""

    side: ProbeSession
    fixtures: ProbeFixtures

    @property
    def tenant_id(self) -> str:
        return self.side.identity.tenant_id

    def opens_text(self) -> bool:
        answer = self.side.https.decrypt(self.fixtures.resource, self.fixtures.ciphertext)
        return answer.worked and answer.octets("plaintext") == self.fixtures.plaintext

    def opens_data_key(self) -> bool:
        answer = self.side.https.open_data_key(self.fixtures.resource, self.fixtures.wrapped)
        return answer.worked and answer.octets("plaintext") == self.fixtures.data_key

    def opens_sealed(self) -> bool:
        return self.side.kmip.decrypt(self.fixtures.key, self.fixtures.sealed).data() == self.fixtures.plaintext

    def reads_key(self) -> bool:
        return self.side.kmip.about(Operation.GET, self.fixtures.key).worked


def on_another_tenant(attacker: Owner, victim: Owner) -> Iterator[AccessTest]:
    """Yield every attack on data of another tenant."""
    yield _decrypt("C2", "https-decrypt-other-tenant", attacker, victim)
    yield _rewrap("C3", "https-rewrap-other-tenant", attacker, victim)
    yield _open_data_key("A2", "https-open-data-key-other-tenant", attacker, victim)
    yield _decrypt_sealed("C3", "kmip-decrypt-other-tenant", attacker, victim)
    yield _objects("M1", "kmip-read-other-tenant", attacker, victim, _reads_refused)
    yield _objects("A3", "kmip-change-other-tenant", attacker, victim, _changes_refused)
    yield _locate("A3", "kmip-locate-other-tenant", attacker, victim)
    yield _claim_in_headers(attacker, victim)
    yield _claim_in_payload(attacker, victim)


def on_another_service(attacker: Owner, victim: Owner) -> Iterator[AccessTest]:
    """Yield every attack on data of another service of the same tenant."""
    yield _decrypt("U5", "https-decrypt-other-service", attacker, victim)
    yield _open_data_key("E3", "https-open-data-key-other-service", attacker, victim)
    yield _decrypt_sealed("U5", "kmip-decrypt-other-service", attacker, victim)
    yield _objects("U5", "kmip-read-other-service", attacker, victim, _reads_refused)
    yield _objects("U5", "kmip-change-other-service", attacker, victim, _changes_refused)
    yield _locate("U5", "kmip-locate-other-service", attacker, victim)


def out_of_place(owner: Owner) -> Iterator[AccessTest]:
    """Yield attempts of a service to decrypt its own data with another context."""
    https, data = owner.side.https, owner.fixtures
    elsewhere = f"{data.resource}/elsewhere"
    yield AccessTest(
        "C1",
        "https-decrypt-other-resource",
        lambda: is_not_opened(https.decrypt(elsewhere, data.ciphertext), https.decrypt(elsewhere, _altered_text(data))),
        owner.opens_text,
        owner.side.works,
        ALIKE,
        "it is decrypted for its own resource",
    )
    yield AccessTest(
        "C1",
        "https-open-data-key-other-resource",
        lambda: is_not_opened(
            https.open_data_key(elsewhere, data.wrapped), https.decrypt(elsewhere, _altered_text(data))
        ),
        owner.opens_data_key,
        owner.side.works,
        ALIKE,
        "it is decrypted for its own resource",
    )
    yield AccessTest(
        "C1",
        "https-decrypt-data-key-as-data",
        lambda: is_not_opened(
            https.decrypt(data.resource, data.wrapped),
            https.decrypt(data.resource, _altered_text(data)),
        ),
        owner.opens_data_key,
        owner.side.works,
        ALIKE,
        "it is unwrapped as a data key",
    )
    kmip = owner.side.kmip
    yield AccessTest(
        "C1",
        "kmip-decrypt-other-object",
        lambda: is_not_decrypted(
            kmip.decrypt(data.spare, data.sealed),
            kmip.decrypt(data.spare, _altered_sealed(data.sealed)),
        ),
        owner.opens_sealed,
        owner.side.works,
        ALIKE,
        "its own object decrypts it",
    )


def _altered_text(fixtures: ProbeFixtures) -> str:
    return altered(fixtures.ciphertext)


def _altered_sealed(sealed: Sealed) -> Sealed:
    return dataclasses.replace(sealed, tag=bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:])


def _decrypt(clause: str, name: str, attacker: Owner, victim: Owner) -> AccessTest:
    https, fixtures = attacker.side.https, victim.fixtures

    def refused() -> bool:
        never = https.decrypt(fixtures.resource, _altered_text(attacker.fixtures))
        return is_not_opened(https.decrypt(fixtures.resource, fixtures.ciphertext), never)

    return AccessTest(clause, name, refused, victim.opens_text, attacker.side.works, ALIKE, _OPENS_FOR_OWNER)


def _rewrap(clause: str, name: str, attacker: Owner, victim: Owner) -> AccessTest:
    https, fixtures = attacker.side.https, victim.fixtures

    def refused() -> bool:
        never = https.rewrap(fixtures.resource, _altered_text(attacker.fixtures))
        return is_not_opened(https.rewrap(fixtures.resource, fixtures.ciphertext), never)

    def control() -> bool:
        return victim.side.https.rewrap(fixtures.resource, fixtures.ciphertext).worked

    return AccessTest(
        clause, name, refused, control, attacker.side.works, ALIKE, "its owner re-wraps it in the same second"
    )


def _open_data_key(clause: str, name: str, attacker: Owner, victim: Owner) -> AccessTest:
    https, fixtures = attacker.side.https, victim.fixtures

    def refused() -> bool:
        never = https.open_data_key(fixtures.resource, altered(attacker.fixtures.wrapped))
        return is_not_opened(https.open_data_key(fixtures.resource, fixtures.wrapped), never)

    return AccessTest(clause, name, refused, victim.opens_data_key, attacker.side.works, ALIKE, _OPENS_FOR_OWNER)


def _decrypt_sealed(clause: str, name: str, attacker: Owner, victim: Owner) -> AccessTest:
    """Decrypt the victim's ciphertext with the attacker's own object."""
    kmip, own, ciphertext = attacker.side.kmip, attacker.fixtures, victim.fixtures.sealed

    def refused() -> bool:
        never = kmip.decrypt(own.key, _altered_sealed(ciphertext))
        return is_not_decrypted(kmip.decrypt(own.key, ciphertext), never)

    return AccessTest(clause, name, refused, victim.opens_sealed, attacker.side.works, ALIKE, _OPENS_FOR_OWNER)


def _objects(
    clause: str, name: str, attacker: Owner, victim: Owner, refused: Callable[[Owner, Owner], bool]
) -> AccessTest:
    return AccessTest(
        clause,
        name,
        lambda: refused(attacker, victim),
        victim.reads_key,
        attacker.side.works,
        ALIKE,
        _IS_THERE_FOR_OWNER,
    )


def _reads_refused(attacker: Owner, victim: Owner) -> bool:
    kmip, fixtures, unknown = attacker.side.kmip, victim.fixtures, str(uuid.uuid4())
    return all(
        (
            *(is_not_there(kmip.about(one, fixtures.key), kmip.about(one, unknown)) for one in _READS),
            is_not_there(kmip.encrypt(fixtures.key, b"x"), kmip.encrypt(unknown, b"x")),
            is_not_there(kmip.decrypt(fixtures.key, fixtures.sealed), kmip.decrypt(unknown, fixtures.sealed)),
        )
    )


def _changes_refused(attacker: Owner, victim: Owner) -> bool:
    kmip, unknown = attacker.side.kmip, str(uuid.uuid4())
    return all(is_not_there(kmip.about(one, victim.fixtures.key), kmip.about(one, unknown)) for one in _CHANGES)


def _locate(clause: str, name: str, attacker: Owner, victim: Owner) -> AccessTest:
    kmip, fixtures = attacker.side.kmip, victim.fixtures

    def refused() -> bool:
        by_name, everything = kmip.locate(fixtures.name), kmip.locate()
        unknown = kmip.locate(f"probe {uuid.uuid4().hex}")
        return by_name == unknown and everything.worked and not {fixtures.key, fixtures.spare} & set(everything.ids())

    def control() -> bool:
        return victim.side.kmip.locate(fixtures.name).ids() == [fixtures.key]

    return AccessTest(
        clause,
        name,
        refused,
        control,
        attacker.side.works,
        "no object is found, as for a name that does not exist",
        "its owner finds it",
    )


def _claim_in_headers(attacker: Owner, victim: Owner) -> AccessTest:
    """Encrypt with headers that name the victim; the ciphertext must belong to the attacker only."""
    fixtures, name = victim.fixtures, f"{victim.tenant_id}/{victim.side.identity.service}"
    claims = dict.fromkeys(_CLAIMS, name) | {
        "authorization": f"Bearer {name}",
        "host": tenant_dns(victim.tenant_id),
    }
    made: list[str] = []

    def refused() -> bool:
        answer = attacker.side.https.encrypt(fixtures.resource, fixtures.plaintext, claims)
        made.append(answer.text("ciphertext"))
        victim_api = victim.side.https
        return answer.worked and is_not_opened(
            victim_api.decrypt(fixtures.resource, made[-1]),
            victim_api.decrypt(fixtures.resource, altered(made[-1])),
        )

    def control() -> bool:
        answer = attacker.side.https.decrypt(fixtures.resource, made[-1])
        return answer.worked and answer.octets("plaintext") == fixtures.plaintext

    expected = "headers that name another tenant have no effect: that tenant cannot decrypt the ciphertext"
    return AccessTest(
        "A1", "https-claim-in-headers", refused, control, attacker.side.works, expected, "the caller decrypts it"
    )


def _claim_in_payload(attacker: Owner, victim: Owner) -> AccessTest:
    fixtures, claim = victim.fixtures, {"tenant_id": victim.tenant_id}
    plain = {"resource": fixtures.resource, "ciphertext": fixtures.ciphertext}

    def refused() -> bool:
        answer = attacker.side.https.post("/v1/decrypt", plain | claim)
        return answer.code == "invalid_request"

    expected = "a request with a field for the tenant is rejected as invalid"
    return AccessTest(
        "A1",
        "https-claim-in-payload",
        refused,
        victim.opens_text,
        attacker.side.works,
        expected,
        "its owner decrypts it without the field",
    )
