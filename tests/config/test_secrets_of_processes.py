"""The secrets of each process in docs/production.md: these are enough, and each one is necessary."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from config.secrets import ensure_secret, ensure_secrets
from config.settings import Settings, load_settings
from core.errors.platform import SettingsInvalid
from crypto_service import wiring as crypto_service
from dashboard import wiring as dashboard
from tests.production.artefacts.processes import secrets_of
from worker import wiring as worker

NOTIFICATIONS = {
    "callback_url": "https://platform.example/events",
    "smtp_host": "mail.example",
    "smtp_user": "kcm",
    "email_to": "{tenant_id}@platform.example",
}


def build_worker(settings: Settings) -> None:
    worker.build(settings).database.close()
    worker.open_vault(settings, worker.Role.OFFBOARDING)


def build_dashboard(settings: Settings) -> None:
    dashboard.build(settings, None).database.close()


BUILD: dict[str, Callable[[Settings], object]] = {
    "worker": build_worker,
    "crypto service": crypto_service.read_credentials,
    "dashboard": build_dashboard,
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    ensure_secrets(folder)
    ensure_secret(folder, "smtp-password")
    return folder


@pytest.mark.parametrize("process", list(BUILD))
def test_process_needs_the_listed_secrets_and_no_other(process: str, everything: Path, tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        secrets_dir=tmp_path / "secrets",
        oidc_metadata_url="https://sign-on.example/.well-known/openid-configuration",
        **NOTIFICATIONS,
    )
    settings.secrets.mkdir()
    files = secrets_of(process)
    for name in files:
        shutil.copy(everything / name, settings.secrets / name)
    BUILD[process](settings)
    for name in files:
        (settings.secrets / name).unlink()
        with pytest.raises(SettingsInvalid, match=f"the secret {name} cannot be read"):
            BUILD[process](settings)
        shutil.copy(everything / name, settings.secrets / name)


def test_documented_settings_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "production.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "openkcm.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("OPENKCM_CONFIG", str(tmp_path / "openkcm.toml"))
    settings = load_settings()
    assert settings.crypto_https_url == "https://kcm.example:443"
    assert settings.dashboard_url == "https://cmk.example"
