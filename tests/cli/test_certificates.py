"""`openkcmctl certificate rotate-ca|crl`: what is asked, what is read back, and what a file holds."""

from pathlib import Path

import pytest

from cli.certificates import NoRevocationList
from core.errors.services import CaRotationInProgress
from tests.cli.root_key_stand import refused
from tests.dashboard.scene import ACME
from tests.database.builders import an_authority_serial
from workflows.client.workflow_client import UpdateRejected

FIRST = an_authority_serial(ACME)


def current_serial(desk) -> str:
    with desk.worker.tenant_tx(ACME) as tx:
        return tx.certificates.authority().serial


def test_a_roll_answers_with_the_authorities_on_record(desk) -> None:
    answer = desk.run("certificate", "rotate-ca", ACME, "--confirm", ACME)
    second = current_serial(desk)
    assert [(row["serial"], row["state"]) for row in answer["authorities"]] == [(second, "current"), (FIRST, "former")]
    assert desk.gateway.asked == [f"roll {ACME}"]
    shown = desk.run("tenant", "show", ACME)
    assert [row["serial"] for row in shown["authorities"]] == [second, FIRST]
    assert shown["authority"]["serial"] == second
    assert shown["authorities"][1]["issued_until"] is not None


def test_a_person_sees_both_authorities_and_until_when_the_former_has_certificates(desk) -> None:
    assert "former authority" not in desk.invoke("tenant", "show", ACME).stdout
    told = desk.invoke("certificate", "rotate-ca", ACME, "--confirm", ACME).stdout
    assert current_serial(desk) in told
    shown = " ".join(desk.invoke("tenant", "show", ACME).stdout.split())
    assert "its last certificate ends 2026-11-28 12:00 UTC" in shown
    assert "number 1, valid until 2026-11-26 12:00 UTC" in shown


def test_a_roll_that_is_refused_says_what_to_do(desk) -> None:
    desk.gateway.fails = refused(CaRotationInProgress())
    with pytest.raises(UpdateRejected) as overlaps:
        desk.run("certificate", "rotate-ca", ACME, "--confirm", ACME)
    assert overlaps.value.code == "authority_overlaps"
    assert "three days" in overlaps.value.hint


def test_the_list_is_written_as_it_was_signed(desk, tmp_path: Path) -> None:
    out = tmp_path / "acme.crl"
    answer = desk.run("certificate", "crl", ACME, "--out", str(out))
    assert out.read_bytes() == b"der"
    assert (answer["authority"], answer["number"], answer["file"]) == (FIRST, 1, str(out))


def test_the_former_authoritys_list_is_asked_for_by_its_name(desk, tmp_path: Path) -> None:
    out = tmp_path / "acme.crl"
    with pytest.raises(NoRevocationList):
        desk.run("certificate", "crl", ACME, "--out", str(out), "--former")
    assert not out.exists()
    desk.run("certificate", "rotate-ca", ACME, "--confirm", ACME)
    desk.run("certificate", "crl", ACME, "--out", str(out), "--former")
    assert out.read_bytes() == b"der"
