"""`openkcmctl certificate rotate-ca|crl`: the request, the resulting tenant CAs, and the exported CRL."""

from datetime import timedelta
from pathlib import Path

import pytest

from cli.certificates import NoRevocationList
from core.errors.services import CaRotationInProgress
from openkcm.errors import FileRefused
from tests.cli.root_key_stand import refused
from tests.dashboard.scene import ACME
from tests.database.builders import NOW, an_authority_serial
from workflows.client.updates import UpdateRejected

FIRST = an_authority_serial(ACME)


def current_serial(operator_cli) -> str:
    with operator_cli.worker.tenant_tx(ACME) as tx:
        return tx.certificates.authority().serial


def test_a_rotation_of_the_tenant_ca_returns_the_recorded_cas(operator_cli) -> None:
    answer = operator_cli.run("certificate", "rotate-ca", ACME, "--confirm", ACME)
    second = current_serial(operator_cli)
    assert [(row["serial"], row["state"]) for row in answer["authorities"]] == [(second, "current"), (FIRST, "former")]
    assert operator_cli.gateway.asked == [f"roll {ACME}"]
    shown = operator_cli.run("tenant", "show", ACME)
    assert [row["serial"] for row in shown["authorities"]] == [second, FIRST]
    assert shown["authority"]["serial"] == second
    assert shown["authorities"][1]["issued_until"] is not None


def test_the_text_output_shows_both_tenant_cas_and_the_last_expiry_of_the_former(operator_cli) -> None:
    assert "former tenant CA" not in operator_cli.invoke("tenant", "show", ACME).stdout
    printed = operator_cli.invoke("certificate", "rotate-ca", ACME, "--confirm", ACME).stdout
    assert current_serial(operator_cli) in printed
    shown = " ".join(operator_cli.invoke("tenant", "show", ACME).stdout.split())
    assert f"its last certificate expires {NOW + timedelta(hours=72):%Y-%m-%d} 12:00 UTC" in shown
    assert f"number 1, valid until {NOW + timedelta(days=1):%Y-%m-%d} 12:00 UTC" in shown


def test_a_rejected_rotation_of_the_tenant_ca_has_a_hint(operator_cli) -> None:
    operator_cli.gateway.fails = refused(CaRotationInProgress())
    with pytest.raises(UpdateRejected) as rejected:
        operator_cli.run("certificate", "rotate-ca", ACME, "--confirm", ACME)
    assert rejected.value.code == "ca_rotation_in_progress"
    assert "three days" in rejected.value.hint


def test_the_crl_is_exported_unchanged(operator_cli, tmp_path: Path) -> None:
    out = tmp_path / "acme.crl"
    answer = operator_cli.run("certificate", "crl", ACME, "--out", str(out))
    assert out.read_bytes() == b"der"
    assert (answer["authority"], answer["number"], answer["file"]) == (FIRST, 1, str(out))


def test_the_crl_of_the_former_ca_needs_an_option(operator_cli, tmp_path: Path) -> None:
    out = tmp_path / "acme.crl"
    with pytest.raises(NoRevocationList):
        operator_cli.run("certificate", "crl", ACME, "--out", str(out), "--former")
    assert not out.exists()
    operator_cli.run("certificate", "rotate-ca", ACME, "--confirm", ACME)
    operator_cli.run("certificate", "crl", ACME, "--out", str(out), "--former")
    assert out.read_bytes() == b"der"


def test_a_crl_replaces_an_older_one_and_a_failure_leaves_it_unchanged(operator_cli, tmp_path: Path) -> None:
    out = tmp_path / "acme.crl"
    out.write_bytes(b"older")
    operator_cli.run("certificate", "crl", ACME, "--out", str(out))
    assert out.read_bytes() == b"der"
    for path in (tmp_path / "missing" / "acme.crl", out / "acme.crl"):
        with pytest.raises(FileRefused) as refused_path:
            operator_cli.run("certificate", "crl", ACME, "--out", str(path))
        assert str(path) in refused_path.value.message
    assert [file.name for file in tmp_path.iterdir() if "crl" in file.name] == ["acme.crl"]
