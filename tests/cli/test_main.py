"""Exit statuses, and exactly one JSON document for every outcome."""

import gc
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import typer

import devstack.cli
from cli.__main__ import APPLICATION, main
from devstack.__main__ import APPLICATION as DEVSTACK
from devstack.__main__ import main as devstack
from openkcm.cli.__main__ import APPLICATION as CLIENT
from openkcm.cli.application import Application
from tests.devstack.unprivileged import ordinary_user


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENKCM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize("words", [(), ("service",), ("service", "list")])
def test_each_command_has_a_short_help_option(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-h"]) == 0

    assert " ".join(["Usage: openkcmctl", *words]) in capsys.readouterr().out


@pytest.mark.integration
def test_the_help_of_the_program_loads_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    """So it appears at once: the settings alone take longer to load than the help."""
    program = "import sys; from cli.__main__ import main; main(['-h']); print(*sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)

    *shown, loaded = capfd.readouterr().out.splitlines()
    assert "Show, lock, suspend, offboard and restore tenants." in "".join(shown)
    assert not {"config.settings", "pydantic", "psycopg", "temporalio", "cli.tenants.commands"} & set(loaded.split())


@pytest.mark.parametrize("application", [APPLICATION, DEVSTACK, CLIENT], ids=lambda one: one.program)
def test_the_help_of_the_program_names_the_commands_of_each_module(application: Application) -> None:
    for module, commands in application.modules.items():
        app = typer.Typer()
        import_module(module).register(app)
        names = [one.name or one.callback.__name__ for one in app.registered_commands if one.callback is not None]
        assert {*names, *(group.name for group in app.registered_groups)} == set(commands)


def test_a_separate_module_registers_the_command_of_its_group() -> None:
    for (group, name), module in APPLICATION.separate_modules.items():
        whole = next(one for one, commands in APPLICATION.modules.items() if group in commands)
        [separate] = _commands(module, group).items()
        assert separate == (name, _commands(whole, group)[name])


def _commands(module: str, group: str) -> dict[str, object]:
    app = typer.Typer()
    import_module(module).register(app)
    found = next(one.typer_instance for one in app.registered_groups if one.name == group)
    return {one.name or one.callback.__name__: one.callback for one in found.registered_commands}


def test_a_command_behind_an_option_of_the_program_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "service", "-h"]) == 0

    assert "Connect databases and services to a tenant's keys." in capsys.readouterr().out


def test_the_version_is_that_of_the_installed_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"openkcmctl {version('openkcm-tenant-controller')}\n"


def test_a_shell_completes_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert main(["--show-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert script.endswith("complete -o default -F _openkcmctl_completion openkcmctl\n")

    for line, found in (
        ("openkcmctl ser", "service"),
        ("openkcmctl service dis", "disconnect"),
        ("openkcmctl tenant list --j", "--json"),
    ):
        monkeypatch.setenv("_OPENKCMCTL_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
        assert main([]) == 0
        assert capsys.readouterr().out == f"{found}\n"


def test_status_without_an_installation_reports_everything_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    assert devstack(["status", "--json"]) == 1

    document = json.loads(capsys.readouterr().out)
    assert {component["state"] for component in document["components"]} == {"stopped"}
    assert {"dashboard", "marketplace", "temporal", "temporal_ui", "vault", "crypto_https", "crypto_kmip"} == set(
        document["addresses"]
    )


def test_status_and_down_create_no_state_folder(state_dir: Path) -> None:
    assert devstack(["status", "--json"]) == 1
    assert devstack(["down", "--json"]) == 0

    assert not state_dir.exists()


@pytest.mark.parametrize(
    "words", [["frobnicate"], ["tenant", "list", "--frobnicate"], ["tenant", "lock", "acme-corp-12345"]]
)
def test_wrong_usage_returns_status_2_and_one_document(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--json"]) == 2

    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_an_unknown_setting_is_rejected_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENKCM_POSTGRESS_PORT", "1")

    assert devstack(["status", "--json"]) == 1

    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "settings_invalid"
    assert "OPENKCM_POSTGRESS_PORT" in error["message"]


def test_an_unusable_state_folder_is_rejected_with_the_setting(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dir.write_text("a file where a folder belongs", encoding="utf-8")

    assert devstack(["up", "--json"]) == 1

    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "settings_invalid"
    assert "OPENKCM_STATE_DIR" in error["hint"]


@pytest.mark.parametrize("command", ["status", "down", "up"])
def test_a_state_folder_of_another_user_is_rejected_and_not_treated_as_empty(
    command: str, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # First as the user of the tests: the other one may be unable to read the modules that a command imports late.
    state_dir.touch()
    devstack([command, "--json"])
    capsys.readouterr()
    state_dir.unlink()
    state_dir.mkdir(mode=0)
    with ordinary_user():
        status = devstack([command, "--json"])
    state_dir.chmod(0o700)

    error = json.loads(capsys.readouterr().out)["error"]
    assert (status, error["code"]) == (1, "settings_invalid")
    assert "permission denied" in error["message"]


def test_a_duplicate_port_is_rejected_before_any_component_starts(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENKCM_CODEC_PORT", "18501")
    monkeypatch.setenv("OPENKCM_DASHBOARD_PORT", "18501")

    assert devstack(["up", "--json"]) == 1

    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == "port 18501 is given to dashboard and to codec"
    assert error["hint"] == "set OPENKCM_DASHBOARD_PORT or OPENKCM_CODEC_PORT to another port"
    assert not (state_dir / "secrets").exists()


def test_an_unexpected_error_is_internal_with_a_reference_to_the_log(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (state_dir / "run" / "command.lock").mkdir(parents=True)  # a folder instead of the lock file

    assert devstack(["down", "--json"]) == 1

    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    error = json.loads(printed.out)["error"]
    assert error["code"] == "internal"
    reference = error["message"].rpartition(" ")[2]
    log = Path(error["hint"].removeprefix("see "))
    assert f"reference {reference}" in log.read_text(encoding="utf-8")
    assert log.stat().st_mode & 0o777 == 0o600


def test_loading_a_command_is_not_interrupted_by_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    collects = []
    noting = ModuleType("noting")
    noting.__dict__["register"] = lambda _app: collects.append(gc.isenabled())
    monkeypatch.setitem(sys.modules, "noting", noting)

    replace(APPLICATION, modules={"noting": {"note": "Note."}}).app(["note"])

    assert collects == [False]
    assert gc.isenabled()


def test_text_output_has_the_error_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENKCM_REGIONS", "[]")

    assert devstack(["status"]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "settings_invalid" in printed.err
