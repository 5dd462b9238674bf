"""PyKMIP's client with the files that `openkcmctl service connect` wrote."""

from typing import Any

from kmip.core import enums, objects
from kmip.pie.client import ProxyKmipClient

from tests.e2e.connected import Service
from tests.e2e.wires import host_and_port


def a_client(service: Service, version: enums.KMIPVersion) -> ProxyKmipClient:
    host, port = host_and_port(service.answer["kmip"])
    folder = service.folder
    return ProxyKmipClient(
        hostname=host,
        port=port,
        cert=str(folder / "client.pem"),
        key=str(folder / "client.key"),
        ca=str(folder / "ca.pem"),
        kmip_version=version,
    )


def attribute(client: ProxyKmipClient, kind: enums.AttributeType, value: Any) -> objects.Attribute:
    made: objects.Attribute = client.attribute_factory.create_attribute(kind, value)
    return made
