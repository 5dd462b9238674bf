"""Connecting, renewing and disconnecting on a real database: allowed, on record before and after, nothing kept."""

import io
import json
import subprocess
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dashboard import join_actions, protection_actions, service_actions
from dashboard.views.guides import request_command
from tenancy.errors import (
    ActionRefused,
    InvalidName,
    Overtaken,
    ServiceConflict,
    ServiceUnknown,
    SessionEnded,
    TemporalUnavailable,
    TenantClosed,
    TenantUnknown,
)
from tenancy.lifecycle import State
from tenancy.people import PersonRole
from tenancy.services import ServiceKind, ServiceState
from tests.dashboard.scene import Scene, a_request_pem, scene
from tests.database.builders import a_protected_field
from vault.signing_requests import CsrRefused

__all__ = ["scene"]

ACME = "acme-corp-12345"
FOLDER = "/etc/openkcm/orders"


def a_wish(kind: ServiceKind = ServiceKind.MONGODB, csr_pem: str | None = None) -> service_actions.Wish:
    return service_actions.wish("orders", kind, FOLDER, csr_pem)


def audited(scene: Scene, prefix: str = "service.") -> list[tuple[str, str, str]]:
    with scene.worker.tenant_tx(ACME) as tx:
        records = [json.loads(record.record) for record in tx.audit.records()]
    return [
        (record["name"], record["outcome"], record["details"].get("code", ""))
        for record in records
        if record["name"].startswith(prefix)
    ]


def test_a_key_made_here_comes_with_its_certificate_and_is_stored_nowhere(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    delivery = service_actions.connect(scene.seat(), a_wish())
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
    assert audited(scene) == [
        ("service.connect_requested", "intended", ""),
        ("service.connect_requested", "success", ""),
    ]


def test_an_archive_is_for_its_owner_alone_and_holds_what_the_command_writes(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    delivery = service_actions.connect(scene.seat(), a_wish())
    with zipfile.ZipFile(io.BytesIO(service_actions.archive(delivery))) as zipped:
        modes = {entry.filename: entry.external_attr >> 16 for entry in zipped.infolist()}
        assert zipped.read("orders/client.key").decode() == delivery.files["client.key"]
    assert modes.pop("orders/") == 0o40700
    assert set(modes.values()) == {0o100600}
    names = {"client.key", "client.pem", "ca.pem", "mongodb.pem", "mongod.yaml", "csfle.json", "client.toml"}
    assert set(modes) == {f"orders/{name}" for name in names}


@pytest.mark.parametrize("kind", list(ServiceKind))
def test_a_request_of_the_services_own_machine_gets_everything_but_a_key(scene: Scene, kind: ServiceKind) -> None:
    scene.tenant(State.ACTIVE)
    delivery = service_actions.connect(scene.seat(), a_wish(kind, a_request_pem()))
    assert not delivery.has_key
    assert not any("PRIVATE KEY" in text for text in delivery.files.values())


def test_the_command_that_is_shown_makes_a_request_that_is_taken(tmp_path) -> None:
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
def test_what_cannot_be_is_refused_before_anything_is_stored(name, folder, csr_pem, refusal) -> None:
    with pytest.raises(refusal):
        service_actions.wish(name, ServiceKind.MONGODB, folder, csr_pem)


@pytest.mark.parametrize("role", [PersonRole.AUDITOR, PersonRole.KEY_ADMINISTRATOR, PersonRole.OPERATOR])
def test_who_may_not_manage_services_is_refused_on_record_and_nothing_is_asked(scene: Scene, role: PersonRole) -> None:
    scene.tenant(State.ACTIVE)
    seat = scene.seat(ACME, role)
    for act in (
        lambda: service_actions.connect(seat, a_wish()),
        lambda: service_actions.renew(seat, "orders"),
        lambda: service_actions.disconnect(seat, "orders"),
    ):
        with pytest.raises(ActionRefused):
            act()
    assert scene.door.asked == []
    assert audited(scene) == []
    assert [outcome for _, outcome, _ in audited(scene, "dashboard.action_refused")] == ["refused"] * 3


def test_a_dialog_that_outlives_its_sign_on_does_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    gone = replace(scene.seat(), present=lambda: False)
    for act in (lambda: service_actions.connect(gone, a_wish()), lambda: service_actions.disconnect(gone, "orders")):
        with pytest.raises(SessionEnded):
            act()
    assert scene.door.asked == []
    assert audited(scene) == []


def test_a_tenant_that_cannot_encrypt_connects_nothing(scene: Scene) -> None:
    scene.tenant(State.SUSPENDED)
    with pytest.raises(TenantClosed):
        service_actions.connect(scene.seat(), a_wish())
    assert scene.door.asked == []


def test_a_name_that_is_of_another_kind_is_refused(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.POSTGRESQL)
    with pytest.raises(ServiceConflict):
        service_actions.connect(scene.seat(), a_wish())


def test_without_a_tenant_or_a_service_there_is_nothing_to_do(scene: Scene) -> None:
    for act in (
        lambda: service_actions.connect(scene.seat(), a_wish()),
        lambda: service_actions.renew(scene.seat(), "o"),
    ):
        with pytest.raises(TenantUnknown):
            act()
    scene.tenant(State.ACTIVE)
    with pytest.raises(ServiceUnknown):
        service_actions.disconnect(scene.seat(), "orders")


def test_a_workflow_service_that_is_down_is_on_record_and_the_same_wish_works_later(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    wanted = a_wish()
    scene.door.fails = TemporalUnavailable()
    with pytest.raises(TemporalUnavailable):
        service_actions.connect(scene.seat(), wanted)
    assert audited(scene)[-1] == ("service.connect_requested", "failure", "temporal_unavailable")
    scene.door.fails = None
    assert service_actions.connect(scene.seat(), wanted).leaf.generation == 1
    assert service_actions.connect(scene.seat(), wanted).leaf.generation == 1


def test_a_request_that_was_overtaken_hands_out_no_strangers_certificate(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    first = a_wish()
    service_actions.connect(scene.seat(), first)
    service_actions.connect(scene.seat(), a_wish())
    with scene.dashboard.tenant_tx(ACME) as tx, pytest.raises(Overtaken):
        tx.services.issued("orders", first.request_id)


def test_a_renewed_certificate_is_for_the_same_key(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    first = service_actions.connect(scene.seat(), a_wish())
    leaf, presented = service_actions.renew(scene.seat(), "orders")
    assert leaf.generation == 2
    before, after = (
        x509.load_pem_x509_certificates(text.encode())[0] for text in (first.files["client.pem"], presented)
    )
    assert before.public_key() == after.public_key()
    assert ("service.renew_requested", "success", "") in audited(scene)


def test_a_disconnected_service_is_revoked_and_comes_back_under_its_name(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    service_actions.connect(scene.seat(), a_wish())
    service_actions.disconnect(scene.seat(), "orders")
    assert ("service.disconnect_requested", "success", "") in audited(scene)
    with scene.dashboard.tenant_tx(ACME) as tx:
        row = tx.services.get("orders")
        assert row is not None
        assert row.state is ServiceState.DISCONNECTED
        assert row.certificate_not_after is None
        with pytest.raises(ServiceUnknown):
            tx.services.issued("orders", "request")
    later = replace(scene.seat(), now=lambda: datetime.now(UTC))
    assert service_actions.connect(later, a_wish()).leaf.generation == 2


def test_who_may_not_manage_services_is_refused_on_record(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    seat, field = scene.seat(ACME, PersonRole.AUDITOR), a_protected_field()
    for name, act in (
        (
            "enrolment.join_token_requested",
            partial(join_actions.make_token, seat, "orders", ServiceKind.MONGODB, timedelta(hours=1)),
        ),
        ("protection.change_requested", partial(protection_actions.protect, seat, "orders", field)),
        ("protection.change_requested", partial(protection_actions.unprotect, seat, "orders", field)),
    ):
        with pytest.raises(ActionRefused):
            act()
        with scene.worker.tenant_tx(ACME) as tx:
            record = json.loads(list(tx.audit.records())[-1].record)
        assert (record["name"], record["outcome"]) == ("dashboard.action_refused", "refused")
        assert record["details"]["action"] == name
