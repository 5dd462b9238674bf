"""Credentials of a root key: their sources, and that only the worker can decrypt them."""

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
from tests.cli.audit.forward_stand import make_identity
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
def test_credentials_reach_the_worker_and_are_neither_stored_nor_logged(operator_cli, caplog, words, wanted) -> None:
    caplog.set_level(logging.DEBUG)
    file = operator_cli.credentials(**wanted)

    result = operator_cli.invoke("root-key", "change", ACME, *words, "--credentials", file, "--json")
    words = ("root-key", "preflight", ACME, *words, "--credentials", "-", "--json")
    checked = operator_cli.invoke(*words, typed=json.dumps(wanted))

    assert (result.exit_code, checked.exit_code) == (0, 0)
    assert [plain(credentials) for credentials in operator_cli.gateway.taken] == [wanted, wanted]
    for seen in (
        result.output,
        checked.output,
        caplog.text,
        operator_cli.everything_stored(),
        repr(operator_cli.gateway.taken),
    ):
        assert SECRET not in seen


def test_stored_credentials_can_be_decrypted_by_the_worker_only(operator_cli, secrets_folder) -> None:
    operator_cli.gateway.fails = RuntimeError("no worker")  # type: ignore[assignment]  # an unexpected error
    with pytest.raises(RuntimeError):
        operator_cli.run("root-key", "change", ACME, *HSM, "--credentials", operator_cli.credentials(pin=SECRET))

    assert SECRET not in operator_cli.everything_stored()
    with operator_cli.field.administrator() as administrator:
        [(request_id, sealed)] = administrator.execute("select request_id, sealed from okcm.root_key_request")
    private = secrets.read_secret(secrets_folder, secrets.INTAKE_KEY)
    assert plain(decrypt_credentials([private], ACME, request_id, sealed)) == {"pin": SECRET}
    for tenant_id, other in (("beta-corp-67890", request_id), (ACME, "0" * 32)):
        with pytest.raises(RootKeyRefused):
            decrypt_credentials([private], tenant_id, other, sealed)


def test_an_access_key_id_may_be_an_option_and_its_secret_may_not(operator_cli) -> None:
    file = operator_cli.credentials(secret_access_key=SECRET)
    operator_cli.run("root-key", "preflight", ACME, *AWS, "--access-key-id", "AKIAEXAMPLE", "--credentials", file)
    assert plain(operator_cli.gateway.taken[0]) == {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}

    for option in ("--secret-access-key", "--pin", "--secret-id"):
        for words in ((option, SECRET), (f"{option}={SECRET}",)):
            result = operator_cli.invoke("root-key", "preflight", ACME, *AWS, *words)
            assert result.exit_code == 2
            assert SECRET not in result.output


def test_a_file_readable_by_others_or_unreadable_is_rejected(operator_cli, tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.touch(mode=0o600)
    os.truncate(endless, 1 << 40)
    for name in ("nothing-here", ".", str(endless)):
        with pytest.raises(FileRefused):
            operator_cli.run("root-key", "preflight", ACME, *HSM, "--credentials", name)
    for mode in (0o644, 0o640, 0o602, 0o610):
        file = operator_cli.credentials(mode=mode, pin=SECRET)
        with pytest.raises(FileRefused) as refused:
            operator_cli.run("root-key", "preflight", ACME, *HSM, "--credentials", file)
        assert refused.value.hint.startswith(f"chmod 600 {file}")
    twice = ("--access-key-id", "AKIAEXAMPLE", "--credentials", operator_cli.credentials(access_key_id="AKIAOTHER"))
    assert operator_cli.invoke("root-key", "preflight", ACME, *AWS, *twice).exit_code == 2
    assert not operator_cli.gateway.asked


MALFORMED = (
    ("", "the credentials are not a JSON object"),
    (SECRET, "the credentials are not a JSON object"),
    (f'["{SECRET}"]', "the credentials are not a JSON object"),
    (f'{{"{SECRET}": "x"}}', "the credentials have an unknown field"),
    (f'{{"pin": ["{SECRET}"]}}', "pin: not a string"),
    (f'{{"pin": {{"{SECRET}": 1}}}}', "pin: not a string"),
    (f'{{"pin": "{SECRET}", "token": "{SECRET}"}}', "pkcs11 needs pin"),
    (f'{{"token": "{SECRET}"}}', "pkcs11 needs pin"),
    ('{"pin": ""}', "pkcs11 needs pin"),
    ("{}", "pkcs11 needs pin"),
    (f'{{"pin": "{SECRET}"', "the credentials are not a JSON object"),
    (f'{{"pin": "{SECRET}\\n"}}', "pin: at most 255 characters on one line"),
    ('{"pin": "\ud800"}', "the credentials are not a JSON object"),
)


def test_malformed_credentials_are_rejected_with_their_field_and_never_quoted(operator_cli, tmp_path: Path) -> None:
    before = operator_cli.everything_stored()
    file = tmp_path / "credentials.json"
    for text, message in MALFORMED:
        file.write_bytes(text.encode(errors="surrogatepass"))
        file.chmod(0o600)
        with pytest.raises(RootKeyRefused) as refused:
            operator_cli.run("root-key", "change", ACME, *HSM, "--credentials", str(file))
        assert refused.value.message == message
        assert SECRET not in refused.value.message + refused.value.hint
        assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert (operator_cli.everything_stored(), operator_cli.gateway.asked) == (before, [])


def test_missing_credentials_without_a_terminal_are_wrong_usage(operator_cli) -> None:
    for words, wanted in WAYS:
        if ROLE_ARN not in words:
            result = operator_cli.invoke("root-key", "change", ACME, *words, typed=f"{SECRET}\n")
            assert result.exit_code == 2
            assert all(name in result.stderr for name in (*wanted, "--credentials"))
    assert not operator_cli.gateway.asked


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
def test_credentials_are_prompted_at_a_terminal_without_echo(  # noqa: PLR0917 - fixtures and the typed text
    operator_cli, secrets_folder, free_port, words, typed, wanted
) -> None:
    status, shown = at_a_terminal(["root-key", "change", ACME, *words], typed, free_port)

    assert status == 1
    assert "temporal_unavailable" in shown  # no server listens there
    assert SECRET not in shown
    with operator_cli.field.administrator() as administrator:
        [(request_id, sealed)] = administrator.execute("select request_id, sealed from okcm.root_key_request")
    private = secrets.read_secret(secrets_folder, secrets.INTAKE_KEY)
    assert plain(decrypt_credentials([private], ACME, request_id, sealed)) == wanted


@pytest.mark.usefixtures("operator_cli")
def test_a_terminal_as_standard_input_is_rejected(free_port) -> None:
    status, shown = at_a_terminal(["root-key", "preflight", ACME, *HSM, "--credentials", "-"], [], free_port)
    assert status == 2
    assert "without echo" in " ".join(shown.split())


def test_an_internal_error_does_not_log_or_print_credentials(
    operator_cli, secrets_folder: Path, capsys, tmp_path
) -> None:
    (secrets_folder / secrets.INTAKE_PUBLIC_KEY).write_text("no key")
    file = operator_cli.credentials(pin=SECRET)

    assert main(["root-key", "change", ACME, *HSM, "--credentials", file, "--json"]) == 1

    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    assert not [log for log in tmp_path.rglob("*.log") if SECRET in log.read_text()]


def test_a_missing_intake_key_is_reported_before_a_secret_is_prompted(operator_cli, secrets_folder: Path) -> None:
    (secrets_folder / secrets.INTAKE_PUBLIC_KEY).unlink()
    with pytest.raises(SettingsInvalid):
        operator_cli.run("root-key", "change", ACME, *HSM)


def test_credentials_are_never_in_the_process_list(operator_cli, free_port) -> None:
    file = operator_cli.credentials(pin=SECRET)
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


def test_only_the_certificates_of_a_ca_file_are_stored(operator_cli, tmp_path: Path) -> None:
    made = make_identity(tmp_path)
    certificate, key = made.pem.read_text(), made.key.read_text()
    (tmp_path / "bundle.pem").write_text(key + certificate + SECRET)
    words = (*BAO, "--ca", str(tmp_path / "bundle.pem"), "--credentials", operator_cli.credentials(token="t"))

    operator_cli.run("root-key", "change", ACME, *words)

    shown = operator_cli.run("root-key", "show", ACME)
    assert shown["place"]["ca_pem"] == certificate
    stored = operator_cli.everything_stored()
    assert key.splitlines()[1] not in stored
    assert SECRET not in stored
    assert "1 certificates of your own" in operator_cli.invoke("root-key", "show", ACME).stdout


def test_a_file_without_certificates_is_refused(operator_cli, tmp_path: Path) -> None:
    for text in ("", "no certificate", SECRET, "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"):
        (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(RootKeyRefused) as refused:
            operator_cli.run("root-key", "preflight", ACME, *BAO, "--ca", str(tmp_path / "ca.pem"))
        assert refused.value.message.startswith("ca_pem: CA certificates in PEM")
    for text in ("x" * 40_000, None):
        if text is not None:
            (tmp_path / "ca.pem").write_text(text)
        else:
            (tmp_path / "ca.pem").unlink()
        with pytest.raises(FileRefused):
            operator_cli.run("root-key", "preflight", ACME, *BAO, "--ca", str(tmp_path / "ca.pem"))
