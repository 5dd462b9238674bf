"""PyKMIP's client, given what `service connect` wrote, and how its answers are looked at."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from kmip.core import enums, objects
from kmip.core.messages import contents, messages
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure
from kmip.pie.objects import PrivateKey, PublicKey

from tests.stories.connected import Service, connect

AES, ENCRYPT, DECRYPT = (
    enums.CryptographicAlgorithm.AES,
    enums.CryptographicUsageMask.ENCRYPT,
    enums.CryptographicUsageMask.DECRYPT,
)
VERSIONS = [version for version in enums.KMIPVersion if version < enums.KMIPVersion.KMIP_2_0]
UNREADABLE = {"Digest", "Link"}


@pytest.fixture(scope="module")
def vault_box(stack, acme, tmp_path_factory) -> Service:
    """A service of ACME's that keeps its keys over KMIP."""
    return connect(stack, acme, "postgresql", "vault-box", tmp_path_factory.mktemp("vault-box") / "kcm")


@pytest.fixture(scope="module")
def stranger(stack, acme, tmp_path_factory) -> Service:
    """Another service of the same customer."""
    return connect(stack, acme, "postgresql", "stranger", tmp_path_factory.mktemp("stranger") / "kcm")


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def client(vault_box, request) -> Iterator[ProxyKmipClient]:
    with a_client(vault_box, request.param) as opened:
        yield opened


@pytest.fixture
def newest(vault_box) -> Iterator[ProxyKmipClient]:
    with a_client(vault_box, VERSIONS[-1]) as opened:
        yield opened


def a_client(service: Service, version: enums.KMIPVersion) -> ProxyKmipClient:
    host, _, port = service.answer["kmip"].rpartition(":")
    folder = service.folder
    return ProxyKmipClient(
        hostname=host,
        port=int(port),
        cert=str(folder / "client.pem"),
        key=str(folder / "client.key"),
        ca=str(folder / "ca.pem"),
        kmip_version=version,
    )


def since(client: ProxyKmipClient, version: enums.KMIPVersion) -> bool:
    return bool(client.kmip_version >= version)


@pytest.fixture(scope="module")
def pair() -> RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def a_name() -> str:
    return f"name-{time.monotonic_ns()}"


def active_key(client: ProxyKmipClient, *uses: enums.CryptographicUsageMask) -> str:
    uid = str(client.create(AES, 256, cryptographic_usage_mask=list(uses)))
    client.activate(uid)
    return uid


def attributes_of(client: ProxyKmipClient, uid: str) -> dict[str, Any]:
    """Return the attributes that PyKMIP can read; in 1.0 it expects a digest as 1.1 brought it."""
    names = [name for name in client.get_attribute_list(uid) if name not in UNREADABLE]
    _, found = client.get_attributes(uid, names)
    values = {attribute.attribute_name.value: attribute.attribute_value for attribute in found}
    return {name: getattr(value, "value", value) for name, value in values.items()}


def state_of(client: ProxyKmipClient, uid: str) -> enums.State:
    _, (attribute,) = client.get_attributes(uid, ["State"])
    return enums.State(attribute.attribute_value.value)


def attribute(client: ProxyKmipClient, kind: enums.AttributeType, value: Any) -> objects.Attribute:
    made: objects.Attribute = client.attribute_factory.create_attribute(kind, value)
    return made


def assert_refused(reason: enums.ResultReason, call: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises(KmipOperationFailure) as refused:
        call(*arguments, **named)
    assert refused.value.reason is reason, refused.value


def ask(client: ProxyKmipClient, operation: enums.Operation, payload: Any) -> Any:
    """Send what the client has a payload for and no method; return the batch item of the answer."""
    item = messages.RequestBatchItem(operation=contents.Operation(operation), request_payload=payload)
    request = client.proxy._build_request_message(None, [item])
    (answer,) = client.proxy._send_and_receive_message(request).batch_items
    return answer


def halves_of(pair: RSAPrivateKey) -> tuple[PrivateKey, PublicKey]:
    """Return both halves as objects to register, made for signing and verifying."""
    form = serialization.PrivateFormat.PKCS8
    private = pair.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    public = pair.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    rsa_, uses = enums.CryptographicAlgorithm.RSA, enums.CryptographicUsageMask
    return (
        PrivateKey(rsa_, 2048, private, enums.KeyFormatType.PKCS_8, [uses.SIGN], a_name()),
        PublicKey(rsa_, 2048, public, enums.KeyFormatType.PKCS_1, [uses.VERIFY], a_name()),
    )
