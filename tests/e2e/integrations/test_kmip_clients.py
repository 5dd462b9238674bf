"""Requests of databases, backup programs and storage arrays, each with its version of KMIP and order of calls.

These products cannot be installed here, so the tests build their requests field by field and assert the parts of the
responses that they need, over separate TLS connections. MongoDB's drivers, Ceph's gateway, PyKMIP and OpenBao run for
real in other tests.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ssl import SSLSocket

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    EncodingOption,
    KeyFormatType,
    ObjectType,
    Operation,
    QueryFunction,
    ResultReason,
    RevocationReasonCode,
    SecretDataType,
    State,
    WrappingMethod,
)
from crypto_service.kmip.codec.fields import choice, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.attributes import RULES
from tests.crypto_service.kmip.messages import batch_item, version
from tests.crypto_service.kmip.scene import VALUE, a_name, attribute, cbc, creation, custom, gcm
from tests.e2e.connected import Service, connect
from tests.e2e.kmip_wire import ask, part_of, reason_of, revocation, send, value_of
from tests.e2e.tenants import new_tenant

KEY = bytes(range(32))


@dataclass
class Client:
    """One connection of a client that uses the minor version `minor` and the header fields `header`."""

    connection: SSLSocket
    minor: int
    header: tuple[Item, ...] = ()

    def ask(self, operation: int, *payload: Item) -> Item:
        return ask(self.connection, batch_item(operation, *payload), minor=self.minor, header=self.header)

    def about(self, operation: int, object_id: str, *payload: Item) -> Item:
        return self.ask(operation, text(Tag.UNIQUE_IDENTIFIER, object_id), *payload)

    def refused(self, operation: int, object_id: str, *payload: Item) -> ResultReason | None:
        item = batch_item(operation, text(Tag.UNIQUE_IDENTIFIER, object_id), *payload)
        (answer,) = send(self.connection, item, minor=self.minor, header=self.header)
        return reason_of(answer)

    def attributes(self, object_id: str, *names: str) -> dict[str, Item]:
        wanted = [text(Tag.ATTRIBUTE_NAME, name) for name in names]
        return attributes_in(self.about(Operation.GET_ATTRIBUTES, object_id, *wanted))

    def locate(self, *criteria: Item, most: int | None = None) -> list[str]:
        maximum = () if most is None else (number(Tag.MAXIMUM_ITEMS, most),)
        return ids_in(self.ask(Operation.LOCATE, *maximum, *criteria))

    def key(self, object_id: str) -> bytes:
        return material_in(self.about(Operation.GET, object_id))

    def revoke(self, object_id: str, code: int = RevocationReasonCode.CESSATION_OF_OPERATION) -> None:
        ask(self.connection, revocation(object_id, code), minor=self.minor, header=self.header)

    def create(self, *attributes: Item, mask: int = 12) -> str:
        return id_in(self.ask(*creation(*attributes, mask=mask)))

    def activated(self, *attributes: Item, mask: int = 12) -> str:
        """Create and activate a key."""
        key_id = self.create(*attributes, mask=mask)
        self.about(Operation.ACTIVATE, key_id)
        return key_id


def id_in(payload: Item) -> str:
    (found,) = ids_in(payload)
    return found


def ids_in(payload: Item) -> list[str]:
    return [str(item.value) for item in payload.all(Tag.UNIQUE_IDENTIFIER)]


def attributes_in(payload: Item) -> dict[str, Item]:
    return {str(item.children()[0].value): item.children()[-1] for item in payload.all(Tag.ATTRIBUTE)}


def material_in(payload: Item) -> bytes:
    value = part_of(payload.children()[-1], Tag.KEY_BLOCK, Tag.KEY_VALUE)
    material = value.first(Tag.KEY_MATERIAL) or value
    assert isinstance(material.value, bytes)
    return material.value


def a_new_name() -> str:
    return f"name-{time.monotonic_ns()}"


def registration(kind: ObjectType, form: KeyFormatType, material: bytes, *attributes: Item) -> tuple[Item, ...]:
    value = structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, material))
    key_fields: tuple[Item, ...] = ()
    if kind is ObjectType.SYMMETRIC_KEY:
        algorithm = choice(Tag.CRYPTOGRAPHIC_ALGORITHM, CryptographicAlgorithm.AES)
        key_fields = (algorithm, number(Tag.CRYPTOGRAPHIC_LENGTH, len(material) * 8))
    block = structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, form), value, *key_fields)
    if kind is ObjectType.SYMMETRIC_KEY:
        registered_object = structure(Tag.SYMMETRIC_KEY, block)
    else:
        registered_object = structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, SecretDataType.PASSWORD), block)
    return (choice(Tag.OBJECT_TYPE, kind), structure(Tag.TEMPLATE_ATTRIBUTE, *attributes), registered_object)


def an_aes_key(*more: Item) -> tuple[Item, ...]:
    described = (
        attribute("Cryptographic Algorithm", choice(VALUE, CryptographicAlgorithm.AES)),
        attribute("Cryptographic Length", number(VALUE, 256)),
        attribute("Cryptographic Usage Mask", number(VALUE, 12)),
    )
    return registration(ObjectType.SYMMETRIC_KEY, KeyFormatType.RAW, KEY, *described, *more)


@pytest.fixture(scope="module")
def service(stack, tmp_path_factory) -> Service:
    """Return a service that stores its keys over KMIP."""
    folder = tmp_path_factory.mktemp("any-client") / "kcm"
    return connect(stack, new_tenant(stack, "kmip-clients"), "postgresql", "any-client", folder)


@contextmanager
def kmip_client(service: Service, minor: int, *header: Item) -> Iterator[Client]:
    with service.open_kmip() as connection:
        yield Client(connection, minor, header)


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_mongodb_enterprise_at_rest(service, minor):
    with kmip_client(service, minor) as mongod:
        key_id = mongod.activated()
        assert len(mongod.key(key_id)) == 32
    with kmip_client(service, minor) as poll:
        assert poll.attributes(key_id, "State")["State"].value == State.ACTIVE
    if minor >= 2:
        with kmip_client(service, minor) as audit_log:
            sealed = audit_log.about(Operation.ENCRYPT, key_id, cbc(), octets(Tag.DATA, b"a line"))
            nonce, data = part_of(sealed, Tag.IV_COUNTER_NONCE), part_of(sealed, Tag.DATA)
            decrypted = audit_log.about(Operation.DECRYPT, key_id, cbc(random=False), data, nonce)
            assert decrypted.first(Tag.DATA) == octets(Tag.DATA, b"a line")


@pytest.mark.parametrize("minor", [0, 4])
def test_pg_tde_finds_its_principal_key_by_name_with_a_connection_for_each_call(service, minor):
    name = a_new_name()
    wanted = (attribute("Object Type", choice(VALUE, ObjectType.SYMMETRIC_KEY)), a_name(name))
    with kmip_client(service, minor) as client:
        assert client.locate(*wanted, most=16) == []
    with kmip_client(service, minor) as client:
        key_id = id_in(client.ask(Operation.REGISTER, *an_aes_key(a_name(name))))
    with kmip_client(service, minor) as client:
        assert client.locate(*wanted, most=16) == [key_id]
    with kmip_client(service, minor) as client:
        assert client.key(key_id) == KEY
    with kmip_client(service, minor) as client:  # pg_tde treats more than one result as an error
        (again,) = send(client.connection, batch_item(Operation.REGISTER, *an_aes_key(a_name(name))), minor=minor)
        assert reason_of(again) is not None
        assert client.locate(*wanted, most=16) == [key_id]


@pytest.mark.parametrize("minor", [1, 4])
def test_mysql_and_percona_server_for_mysql(service, minor):
    with kmip_client(service, minor) as keyring:
        key_id = keyring.activated(a_name(a_new_name()))
        assert len(keyring.key(key_id)) == 32
        assert keyring.refused(Operation.DESTROY, key_id) is ResultReason.PERMISSION_DENIED
        keyring.revoke(key_id)
        keyring.about(Operation.DESTROY, key_id)
        assert keyring.refused(Operation.GET, key_id) is ResultReason.ITEM_NOT_FOUND

        mask = attribute("Cryptographic Usage Mask", number(VALUE, CryptographicUsageMask.EXPORT))
        registered_object = registration(ObjectType.SECRET_DATA, KeyFormatType.RAW, b"audit password", mask)
        secret = id_in(keyring.ask(Operation.REGISTER, *registered_object))
        keyring.about(Operation.ACTIVATE, secret)
        assert keyring.key(secret) == b"audit password"


def test_vmware_vcenter_marks_its_keys_with_custom_attributes(service):
    with kmip_client(service, 1) as vcenter:
        versions = vcenter.ask(Operation.DISCOVER_VERSIONS, version(1), version(0))
        assert [item.children()[1].value for item in versions.children()] == [1, 0]
        functions = (
            QueryFunction.QUERY_OPERATIONS,
            QueryFunction.QUERY_OBJECTS,
            QueryFunction.QUERY_SERVER_INFORMATION,
        )
        can = vcenter.ask(Operation.QUERY, *(choice(Tag.QUERY_FUNCTION, function) for function in functions))
        needed = {Operation.CREATE, Operation.GET, Operation.ADD_ATTRIBUTE, Operation.GET_ATTRIBUTES}
        assert needed <= {item.value for item in can.all(Tag.OPERATION)}

        key_id = vcenter.create()
        assert "State" in vcenter.attributes(key_id)
        marks = {"x-Product_Version": "8.0.3 build-24022515", "x-Vendor": "VMware, Inc.", "x-Product": "VMware vSphere"}
        for name, value in marks.items():
            added = vcenter.about(Operation.ADD_ATTRIBUTE, key_id, custom(name, value))
            assert attributes_in(added)[name].value == value
        stored = vcenter.attributes(key_id)
        assert {name: stored[name].value for name in marks} == marks
        assert all(RULES[name].since <= 1 for name in stored.keys() - marks.keys())
        assert vcenter.locate(custom("x-Vendor", "VMware, Inc."), custom("x-Product", "VMware vSphere")) == [key_id]
        assert len(vcenter.key(key_id)) == 32


def test_synology_disk_station_renames_its_registered_key(service):
    temporary, name = a_new_name(), a_new_name()
    credential = structure(
        Tag.CREDENTIAL,
        choice(Tag.CREDENTIAL_TYPE, 1),
        structure(Tag.CREDENTIAL_VALUE, text(Tag.USERNAME, "dsm"), text(Tag.PASSWORD, "not checked")),
    )
    with kmip_client(service, 2, structure(Tag.AUTHENTICATION, credential)) as dsm:
        for function in (
            QueryFunction.QUERY_OPERATIONS,
            QueryFunction.QUERY_OBJECTS,
            QueryFunction.QUERY_SERVER_INFORMATION,
            QueryFunction.QUERY_APPLICATION_NAMESPACES,
        ):
            dsm.ask(Operation.QUERY, choice(Tag.QUERY_FUNCTION, function))
        assert dsm.locate(a_name(name)) == []
        key_id = id_in(dsm.ask(Operation.REGISTER, *an_aes_key(a_name(temporary))))
        dsm.about(Operation.MODIFY_ATTRIBUTE, key_id, a_name(name))
        assert dsm.locate(a_name(name)) == [key_id]
        assert dsm.locate(a_name(temporary)) == []
        dsm.about(Operation.ACTIVATE, key_id)
        listed = {item.value for item in dsm.about(Operation.GET_ATTRIBUTE_LIST, key_id).all(Tag.ATTRIBUTE_NAME)}
        assert {"Name", "State", "Activation Date"} <= listed
        assert dsm.attributes(key_id, "State", "Name")["State"].value == State.ACTIVE
        assert dsm.key(key_id) == KEY
        dsm.revoke(key_id, RevocationReasonCode.UNSPECIFIED)
        dsm.about(Operation.DESTROY, key_id)
        assert dsm.locate(a_name(name)) == []


def test_vast_replaces_a_key_and_reads_both(service):
    name = a_new_name()
    with kmip_client(service, 4) as vast:
        old = vast.activated(a_name(name))
        new = id_in(vast.about(Operation.REKEY, old))
        assert vast.locate(a_name(name)) == [new]
        assert vast.key(new) != vast.key(old)


def test_edb_tde_wraps_its_data_key_in_the_service(service):
    with kmip_client(service, 4) as edb:
        key_id = edb.activated()
        for parameters in (gcm(), cbc()):
            sealed = edb.about(Operation.ENCRYPT, key_id, parameters, octets(Tag.DATA, KEY))
            parts = [part for part in sealed.children() if part.tag != Tag.UNIQUE_IDENTIFIER]
            assert edb.about(Operation.DECRYPT, key_id, parameters, *parts).first(Tag.DATA) == octets(Tag.DATA, KEY)


@pytest.mark.parametrize("in_template", [True, False], ids=["fortigate", "veeam"])
def test_fortigate_and_veeam_locate_many_by_exact_names_in_one_batch(service, in_template):
    stem = a_new_name()
    names = [stem, f"{stem}-2", f"{stem}-20"]
    with kmip_client(service, 4) as client:
        made = [client.create(a_name(name)) for name in names]
        requests = [
            structure(
                Tag.BATCH_ITEM,
                choice(Tag.OPERATION, Operation.LOCATE),
                octets(Tag.UNIQUE_BATCH_ITEM_ID, bytes([place])),
                structure(
                    Tag.REQUEST_PAYLOAD,
                    structure(Tag.TEMPLATE_ATTRIBUTE, a_name(name)) if in_template else a_name(name),
                ),
            )
            for place, name in enumerate([*names, f"{stem}-none", stem[:-1]])
        ]
        answers = send(client.connection, *requests)
        assert [answer.first(Tag.UNIQUE_BATCH_ITEM_ID) for answer in answers] == [
            octets(Tag.UNIQUE_BATCH_ITEM_ID, bytes([place])) for place in range(len(requests))
        ]
        found = [ids_in(answer.first(Tag.RESPONSE_PAYLOAD) or answer) for answer in answers]
        assert found == [[made[0]], [made[1]], [made[2]], [], []]


def test_netapp_storage_encryption_stores_authentication_keys(service):
    group = attribute("Object Group", text(VALUE, a_new_name()))
    with kmip_client(service, 0) as ontap:
        name = a_new_name()
        key_id = id_in(
            ontap.ask(Operation.REGISTER, *an_aes_key(a_name(name), group, custom("x-NETAPP-Vserver", "v1")))
        )
        assert ontap.locate(group) == [key_id]
    with kmip_client(service, 0) as ontap:
        assert ontap.key(key_id) == KEY
        assert ontap.attributes(key_id, "x-NETAPP-Vserver")["x-NETAPP-Vserver"].value == "v1"
        ontap.about(Operation.DESTROY, key_id)
        assert ontap.locate(group) == []


@pytest.mark.parametrize("option", [None, EncodingOption.NO_ENCODING])
def test_get_returns_a_key_wrapped_by_another_key(service, option):
    with kmip_client(service, 4) as client:
        wrapping = client.activated(mask=CryptographicUsageMask.WRAP_KEY)
        key_id = id_in(client.ask(Operation.REGISTER, *an_aes_key()))
        mode = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.NIST_KEY_WRAP))
        specification = structure(
            Tag.KEY_WRAPPING_SPECIFICATION,
            choice(Tag.WRAPPING_METHOD, WrappingMethod.ENCRYPT),
            structure(Tag.ENCRYPTION_KEY_INFORMATION, text(Tag.UNIQUE_IDENTIFIER, wrapping), mode),
            *(() if option is None else (choice(Tag.ENCODING_OPTION, option),)),
        )
        plain = aes_key_unwrap(client.key(wrapping), material_in(client.about(Operation.GET, key_id, specification)))
        if option is None:  # by default the wrapped value is a key value in TTLV
            plain = value_of(ttlv.decode(plain), Tag.KEY_MATERIAL)
        assert plain == KEY
