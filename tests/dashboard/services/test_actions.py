"""What connecting and renewing a service delivers, on a real database; no private key is stored."""

import io
import subprocess
import zipfile
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from core.errors.platform import Superseded
from core.errors.services import ServiceAlreadyConnected, ServiceConflict, ServiceUnknown
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import State
from dashboard.services import actions as service_actions
from dashboard.services.setup_guides import request_command
from database.services.repository import ServiceRequestRow
from openkcm.contract.csr import CsrRefused
from openkcm.contract.services import ServiceKind
from openkcm.errors import InvalidName
from tests.dashboard.scene import ACME, Scene, a_request_pem
from workflows.client.updates import UpdateRejected

FOLDER = "/etc/openkcm/orders"


def a_wish(kind: ServiceKind = ServiceKind.MONGODB, csr_pem: str | None = None) -> service_actions.ServiceRequest:
    return service_actions.wish("orders", kind, FOLDER, csr_pem)


def test_a_new_key_is_delivered_in_an_archive_for_its_owner_and_never_stored(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    delivery = service_actions.connect(scene.page_context(), a_wish())
    assert delivery.has_key
    key = serialization.load_pem_private_key(delivery.files["client.key"].encode(), None)
    leaf, authority = x509.load_pem_x509_certificates(delivery.files["client.pem"].encode())
    [root] = x509.load_pem_x509_certificates(delivery.files["ca.pem"].encode())
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(root)
    assert f"{FOLDER}/mongodb.pem" in delivery.files["mongod.yaml"]
    with scene.worker.tenant_tx(ACME) as tx:
        stored = "".join(record.record for record in tx.audit.records())
        stored += tx.services.requested(delivery.leaf.request_id).csr_pem
    assert "PRIVATE KEY" not in stored
    _, renewed = service_actions.renew(scene.page_context(), "orders")
    assert x509.load_pem_x509_certificates(renewed.encode())[0].public_key() == key.public_key()
    with zipfile.ZipFile(io.BytesIO(service_actions.archive(delivery))) as zipped:
        modes = {entry.filename: entry.external_attr >> 16 for entry in zipped.infolist()}
        assert zipped.read("orders/client.key").decode() == delivery.files["client.key"]
    assert modes.pop("orders/") == 0o40700
    assert set(modes.values()) == {0o100600}
    names = {"client.key", "client.pem", "ca.pem", "mongodb.pem", "mongod.yaml", "csfle.json", "client.toml"}
    assert set(modes) == {f"orders/{name}" for name in names}


@pytest.mark.parametrize("kind", list(ServiceKind))
def test_a_signing_request_is_answered_without_a_private_key(scene: Scene, kind: ServiceKind) -> None:
    scene.tenant(State.ACTIVE)
    delivery = service_actions.connect(scene.page_context(), a_wish(kind, a_request_pem()))
    assert not delivery.has_key
    assert not any("PRIVATE KEY" in text for text in delivery.files.values())


@pytest.mark.integration
def test_the_command_on_the_page_makes_an_accepted_signing_request(tmp_path) -> None:
    made = subprocess.run(
        ["sh", "-ec", request_command(str(tmp_path / "o"))], capture_output=True, text=True, check=True
    )
    assert a_wish(csr_pem=made.stdout).csr_pem == made.stdout


@pytest.mark.parametrize(
    ("name", "folder", "csr_pem", "refusal"),
    [
        ("Orders!", FOLDER, None, InvalidName),
        ("orders", "relative", None, InvalidName),
        ("orders", FOLDER, "nonsense", CsrRefused),
        ("orders", FOLDER, "", CsrRefused),
    ],
)
def test_an_invalid_name_folder_or_signing_request_is_refused(name, folder, csr_pem, refusal) -> None:
    with pytest.raises(refusal):
        service_actions.wish(name, ServiceKind.MONGODB, folder, csr_pem)


def test_a_superseded_request_returns_no_certificate_of_another_request(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    first = a_wish()
    service_actions.connect(scene.page_context(), first)
    service_actions.connect(scene.page_context(), replace(a_wish(), another=True))
    with scene.dashboard.tenant_tx(ACME) as tx, pytest.raises(Superseded):
        tx.services.issued("orders", first.request_id)


def test_a_connected_service_gets_a_further_certificate_only_if_it_is_asked_for(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    first = a_wish()
    issued = service_actions.connect(scene.page_context(), first)
    scene.gateway.asked.clear()
    before = scene.records()
    with pytest.raises(ServiceAlreadyConnected):
        service_actions.connect(scene.page_context(), a_wish())
    assert (scene.gateway.asked, scene.records()) == ([], before)
    assert service_actions.connect(scene.page_context(), first).leaf == issued.leaf  # the same request, repeated
    further = service_actions.connect(scene.page_context(), replace(a_wish(), another=True))
    assert further.leaf.generation == 2
    service_actions.disconnect(scene.page_context(), "orders")
    assert service_actions.connect(scene.page_context(), a_wish()).leaf.generation == 3


def test_a_service_connected_meanwhile_gets_no_further_certificate(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    late = a_wish()
    with scene.dashboard.tenant_tx(ACME) as tx:  # as if both had read that the name is free
        tx.services.request(ServiceRequestRow(late.request_id, "orders", late.kind, late.csr_pem))
    service_actions.connect(scene.page_context(), a_wish())
    with pytest.raises(UpdateRejected) as refused:
        scene.gateway.connect_service(ACME, "eu-west-1", "orders", late.request_id, another_key=False)
    assert refused.value.code == ServiceAlreadyConnected.code


def test_a_suspended_tenant_or_another_kind_of_the_same_name_connects_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.POSTGRESQL)
    scene.tenant(State.SUSPENDED, "suspended-corp")
    scene.gateway.asked.clear()
    for tenant_id, error in ((ACME, ServiceConflict), ("suspended-corp", TenantNotOperational)):
        with pytest.raises(error):
            service_actions.connect(scene.page_context(tenant_id), a_wish())
    assert scene.gateway.asked == []


@pytest.mark.parametrize("act", [service_actions.renew, service_actions.disconnect])
def test_an_unknown_service_is_neither_renewed_nor_disconnected(scene: Scene, act) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.POSTGRESQL)
    scene.gateway.asked.clear()
    before = scene.records()
    with pytest.raises(ServiceUnknown):
        act(scene.page_context(), "payments")
    assert (scene.records(), scene.gateway.asked) == (before, [])
