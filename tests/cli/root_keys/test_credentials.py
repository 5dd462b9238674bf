"""Credentials of a root key: which ways in there are, and that they come out nowhere but at the worker."""

import json
import logging
import os
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import pytest

from cli.__main__ import main
from cli.root_keys.credentials import FileRefused
from config import secrets
from config.credential_encryption import decrypt_credentials
from core.errors.keys import RootKeyRefused
from core.errors.platform import SettingsInvalid
from core.keys.root_keys import Credentials
from tests.cli.forward_stand import make_identity
from tests.cli.root_key_stand import AWS, BAO, HSM, SECRET, at_a_terminal
from tests.dashboard.scene import ACME, ROLE_ARN

WAYS = [
    (AWS, {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}),
    ((*AWS, "--role-arn", ROLE_ARN), {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}),
    (HSM, {"pin": SECRET}),
    (BAO, {"token": SECRET}),
    ((*BAO, "--role-id", "an-app-role"), {"secret_id": SECRET}),
]


def plain(credentials: Credentials) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in credentials if value is not None}


@pytest.mark.parametrize(("words", "wanted"), WAYS)
def test_credentials_of_a_file_reach_the_worker_and_are_stored_and_logged_nowhere(desk, caplog, words, wanted) -> None:
    caplog.set_level(logging.DEBUG)
    file = desk.credentials(**wanted)

    result = desk.invoke("root-key", "change", ACME, *words, "--credentials", file, "--json")
    words = ("root-key", "preflight", ACME, *words, "--credentials", "-", "--json")
    checked = desk.invoke(*words, typed=json.dumps(wanted))

    assert (result.exit_code, checked.exit_code) == (0, 0)
    assert [plain(opened) for opened in desk.gateway.taken] == [wanted, wanted]
    for seen in (result.output, checked.output, caplog.text, desk.everything_stored(), repr(desk.gateway.taken)):
        assert SECRET not in seen


def test_before_the_worker_takes_them_they_are_stored_for_it_alone(desk, secrets_folder) -> None:
    desk.gateway.fails = RuntimeError("the worker is somewhere else")  # type: ignore[assignment]  # nobody foresaw it
    with pytest.raises(RuntimeError):
        desk.run("root-key", "change", ACME, *HSM, "--credentials", desk.credentials(pin=SECRET))

    assert SECRET not in desk.everything_stored()
    with desk.field.administrator() as administrator:
        [(request_id, sealed)] = administrator.execute("select request_id, sealed from okcm.root_key_request")
    private = secrets.read_secret(secrets_folder, secrets.INTAKE_KEY)
    assert plain(decrypt_credentials(private, ACME, request_id, sealed)) == {"pin": SECRET}
    for tenant_id, other in (("beta-corp-67890", request_id), (ACME, "0" * 32)):
        with pytest.raises(RootKeyRefused):
            decrypt_credentials(private, tenant_id, other, sealed)


def test_an_access_key_id_may_be_an_option_and_its_secret_may_not(desk) -> None:
    file = desk.credentials(secret_access_key=SECRET)
    desk.run("root-key", "preflight", ACME, *AWS, "--access-key-id", "AKIAEXAMPLE", "--credentials", file)
    assert plain(desk.gateway.taken[0]) == {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}

    for option in ("--secret-access-key", "--pin", "--secret-id"):
        for words in ((option, SECRET), (f"{option}={SECRET}",)):
            result = desk.invoke("root-key", "preflight", ACME, *AWS, *words)
            assert result.exit_code == 2
            assert SECRET not in result.output


def test_a_file_that_others_can_read_or_that_cannot_be_read_is_refused(desk, tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.touch(mode=0o600)
    os.truncate(endless, 1 << 40)
    for name in ("nothing-here", ".", str(endless)):
        with pytest.raises(FileRefused):
            desk.run("root-key", "preflight", ACME, *HSM, "--credentials", name)
    for mode in (0o644, 0o640, 0o602, 0o610):
        file = desk.credentials(mode=mode, pin=SECRET)
        with pytest.raises(FileRefused) as refused:
            desk.run("root-key", "preflight", ACME, *HSM, "--credentials", file)
        assert refused.value.hint.startswith(f"chmod 600 {file}")
    twice = ("--access-key-id", "AKIAEXAMPLE", "--credentials", desk.credentials(access_key_id="AKIAOTHER"))
    assert desk.invoke("root-key", "preflight", ACME, *AWS, *twice).exit_code == 2
    assert not desk.gateway.asked


MALFORMED = (
    ("", "the credentials are not a JSON object"),
    (SECRET, "the credentials are not a JSON object"),
    (f'["{SECRET}"]', "the credentials are not a JSON object"),
    (f'{{"{SECRET}": "x"}}', "the credentials have a field that is not known"),
    (f'{{"pin": ["{SECRET}"]}}', "pin: not a text"),
    (f'{{"pin": {{"{SECRET}": 1}}}}', "pin: not a text"),
    (f'{{"pin": "{SECRET}", "token": "{SECRET}"}}', "pkcs11 here needs pin"),
    (f'{{"token": "{SECRET}"}}', "pkcs11 here needs pin"),
    ('{"pin": ""}', "pkcs11 here needs pin"),
    ("{}", "pkcs11 here needs pin"),
    (f'{{"pin": "{SECRET}"', "the credentials are not a JSON object"),
    ('{"pin": "\ud800"}', "the credentials are not a JSON object"),
)


def test_malformed_credentials_are_refused_by_their_field_and_never_quoted(desk, tmp_path: Path) -> None:
    before = desk.everything_stored()
    file = tmp_path / "credentials.json"
    for text, message in MALFORMED:
        file.write_bytes(text.encode(errors="surrogatepass"))
        file.chmod(0o600)
        with pytest.raises(RootKeyRefused) as refused:
            desk.run("root-key", "change", ACME, *HSM, "--credentials", str(file))
        assert refused.value.message == message
        assert SECRET not in refused.value.message + refused.value.hint
        assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert (desk.everything_stored(), desk.gateway.asked) == (before, [])


def test_without_a_file_and_without_a_terminal_it_is_wrong_usage(desk) -> None:
    for words, wanted in WAYS:
        if ROLE_ARN not in words:
            result = desk.invoke("root-key", "change", ACME, *words, typed=f"{SECRET}\n")
            assert result.exit_code == 2
            assert all(name in result.stderr for name in (*wanted, "--credentials"))
    assert not desk.gateway.asked


@pytest.mark.parametrize(
    ("words", "typed", "wanted"),
    [
        (HSM, [SECRET], {"pin": SECRET}),
        (AWS, ["AKIAEXAMPLE", SECRET], {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}),
        (
            (*AWS, "--role-arn", ROLE_ARN, "--access-key-id", "AKIAEXAMPLE"),
            [SECRET],
            {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET},
        ),
    ],
)
def test_at_a_terminal_they_are_asked_for_without_echo(  # noqa: PLR0917 - fixtures, and what is typed
    desk, secrets_folder, free_port, words, typed, wanted
) -> None:
    status, shown = at_a_terminal(["root-key", "change", ACME, *words], typed, free_port)

    assert status == 1
    assert "temporal_unavailable" in shown  # as far as it gets where nobody listens
    assert SECRET not in shown
    with desk.field.administrator() as administrator:
        [(request_id, sealed)] = administrator.execute("select request_id, sealed from okcm.root_key_request")
    private = secrets.read_secret(secrets_folder, secrets.INTAKE_KEY)
    assert plain(decrypt_credentials(private, ACME, request_id, sealed)) == wanted


@pytest.mark.usefixtures("desk")
def test_standard_input_that_is_a_terminal_is_no_file(free_port) -> None:
    status, shown = at_a_terminal(["root-key", "preflight", ACME, *HSM, "--credentials", "-"], [], free_port)
    assert status == 2
    assert "without echo" in " ".join(shown.split())


def test_an_internal_error_keeps_them_out_of_log_and_output(desk, secrets_folder: Path, capsys, tmp_path) -> None:
    (secrets_folder / secrets.INTAKE_PUBLIC_KEY).write_text("no key")
    file = desk.credentials(pin=SECRET)

    assert main(["root-key", "change", ACME, *HSM, "--credentials", file, "--json"]) == 1

    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    assert not [log for log in tmp_path.rglob("*.log") if SECRET in log.read_text()]


def test_a_missing_intake_key_is_said_before_anybody_types_a_secret(desk, secrets_folder: Path) -> None:
    (secrets_folder / secrets.INTAKE_PUBLIC_KEY).unlink()
    with pytest.raises(SettingsInvalid):
        desk.run("root-key", "change", ACME, *HSM)


def test_no_secret_is_ever_an_argument_of_a_process(desk, free_port) -> None:
    file = desk.credentials(pin=SECRET)
    words = ["root-key", "preflight", ACME, *HSM, "--credentials", file]
    with subprocess.Popen(
        [sys.executable, "-m", "cli", *words],
        env=dict(os.environ) | {"OPENKCM_TEMPORAL_PORT": str(free_port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        process = Path(f"/proc/{running.pid}")
        while running.poll() is None:
            with suppress(OSError):
                assert SECRET.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            time.sleep(0.005)  # a loop without a pause takes the CPU that the command needs


def test_of_a_file_with_a_certificate_and_its_key_the_key_is_left_behind(desk, tmp_path: Path) -> None:
    made = make_identity(tmp_path)
    certificate, key = made.pem.read_text(), made.key.read_text()
    (tmp_path / "bundle.pem").write_text(key + certificate + SECRET)
    words = (*BAO, "--ca", str(tmp_path / "bundle.pem"), "--credentials", desk.credentials(token="t"))

    desk.run("root-key", "change", ACME, *words)

    shown = desk.run("root-key", "show", ACME)
    assert shown["place"]["ca_pem"] == certificate
    stored = desk.everything_stored()
    assert key.splitlines()[1] not in stored
    assert SECRET not in stored
    assert "1 certificates of your own" in desk.invoke("root-key", "show", ACME).stdout


def test_a_file_without_certificates_is_refused(desk, tmp_path: Path) -> None:
    for text in ("", "no certificate", SECRET, "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"):
        (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(FileRefused) as refused:
            desk.run("root-key", "preflight", ACME, *BAO, "--ca", str(tmp_path / "ca.pem"))
        assert SECRET not in refused.value.message
