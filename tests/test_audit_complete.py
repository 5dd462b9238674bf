"""The audit is complete: every operation is listed in scripts/audit_catalog.py, and writes the events listed there.

The lists come from the code itself, so a new activity, endpoint, update, action or command fails here until it is
listed. The listed events are compared with those that the code can write: a missing call fails as well.
"""

import base64
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import typer

import activities
import dashboard
from cli.__main__ import APPLICATION
from compliance.audit.ocsf import OCSF
from core.names import l2_key
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from crypto_service.https import schemas as api
from crypto_service.https.routes import ENDPOINTS, HandlerContext
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys.operations import CryptoOperations
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.operation_table import OPERATIONS
from crypto_service.server.turns import Turns
from dashboard.workflow_bridge import WorkflowBridge
from marketplace.app import EndpointConfig, create_app
from marketplace.enrolment.jwks import Issuers
from marketplace.enrolment.routes import EnrolmentConfig
from openkcm.contract.audit_events import AuditName
from openkcm.contract.client_files import Offer as Addresses
from scripts import audit_catalog as audited
from scripts.audit_catalog import Entry
from scripts.call_graph import Code
from tests.crypto_service.https.core import MemoryCore
from worker import wiring

ROOT = Path(__file__).parents[1]
_SHORTEST_REASON = 20


def names_of(entry: Entry) -> frozenset[str]:
    """Return the members' names of the events that Python writes; triggers write the others."""
    return frozenset(one.name for one in entry if isinstance(one, AuditName) and one not in audited.BY_DATABASE)


def activity_functions() -> Iterator[tuple[str, str, str]]:
    """Yield (activity, module, function) of every activity in `activities`."""
    for found in pkgutil.walk_packages(activities.__path__, "activities."):
        module = importlib.import_module(found.name)
        for owner, kind in inspect.getmembers(module, inspect.isclass):
            for function, value in inspect.getmembers(kind, inspect.isfunction):
                definition = getattr(value, "__temporal_activity_definition", None)
                if definition is not None and kind.__module__ == module.__name__:
                    yield str(definition.name), module.__name__, f"{owner}.{function}"


def registered(module: str) -> typer.Typer:
    app = typer.Typer()
    importlib.import_module(module).register(app)
    return app


def commands(app: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for command in app.registered_commands:
        callback = inspect.unwrap(cast("Any", command.callback))
        yield " ".join((*words, command.name or callback.__name__.replace("_", "-"))), callback
    for group in app.registered_groups:
        yield from commands(cast("typer.Typer", group.typer_instance), (*words, str(group.name)))


_ACTIVITIES = list(activity_functions())
_COMMANDS = {name: callback for module in APPLICATION.modules for name, callback in commands(registered(module))}
# The callback of a generated command has another name; this is the function that it calls.
_MADE = {
    "root-key preflight": ("cli.root_keys.commands", "RootKey.preflight"),
    "root-key change": ("cli.root_keys.commands", "RootKey.change"),
}


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_activity_is_listed() -> None:
    assert sorted(name for name, _, _ in _ACTIVITIES) == sorted(audited.ACTIVITIES)


def test_every_activity_is_registered_under_a_name_of_the_table() -> None:
    """So the table describes the activities that run."""
    wired = set(re.findall(r"\.(\w+),\n", inspect.getsource(wiring.build)))
    functions = {function.rpartition(".")[2] for _, _, function in _ACTIVITIES}
    assert functions - wired <= {"change_policy", "check_rotations", "notice_root_key_versions"}


def test_each_activity_writes_the_listed_events() -> None:
    code = Code("AuditName", ("activities",))
    for name, module, function in _ACTIVITIES:
        assert code.reached(module, function) == names_of(audited.ACTIVITIES[name]), name


def test_every_update_and_signal_names_the_activities_that_record_it() -> None:
    asked = set()
    for kind in (*wiring.TENANT_WORKFLOWS, *wiring.OPERATION_WORKFLOWS, *wiring.PLATFORM_WORKFLOWS):
        for _, value in inspect.getmembers(kind):
            signal = getattr(value, "__temporal_signal_definition", None)
            update = getattr(value, "_defn", None)
            for definition in (signal, update):
                if definition is not None:
                    asked.add(f"{kind.__name__}.{definition.name}")
    assert asked == set(audited.REQUESTS)
    for recorded in audited.REQUESTS.values():
        assert all(isinstance(audited.ACTIVITIES[activity], tuple) for activity in recorded)


# ── the crypto service ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_endpoint_is_listed() -> None:
    assert [endpoint.name for endpoint in ENDPOINTS if endpoint.name not in audited.ENDPOINTS] == []
    assert audited.ENDPOINTS.keys() == {endpoint.name for endpoint in ENDPOINTS}


async def test_each_endpoint_appends_the_listed_operations_to_the_write_ahead_log() -> None:
    core = MemoryCore()
    caller = ClientIdentity("acme", "orders", l2_key("acme"), "eu-west-1", "0a", State.ACTIVE, address="203.0.113.9")
    core.callers["0a"] = caller
    core.keys["acme", "orders"] = []
    core.rotate(caller)
    context = HandlerContext(CryptoOperations(core, core, core), *cast("Any", (None,) * 5), Turns())
    plain = base64.b64encode(b"plain").decode()
    acts = {endpoint.name: endpoint.act for endpoint in ENDPOINTS}
    encrypted = await acts["encrypt"](context, caller, api.EncryptRequest(plaintext=plain, resource="r"))
    made = await acts["data-key"](context, caller, api.DataKeyRequest(resource="r"))
    ciphertext, wrapped = cast("Any", encrypted)["ciphertext"], cast("Any", made)["wrapped"]
    requests: Mapping[str, list[dict[str, Any]]] = {
        "encrypt": [{"plaintext": plain}],
        "decrypt": [{"ciphertext": ciphertext}],
        "rewrap": [{"ciphertext": ciphertext}],
        "data-key": [{}, {"wrapped_only": True}],
        "open-data-key": [{"wrapped": wrapped}],
    }
    for endpoint in ENDPOINTS:
        expected = audited.ENDPOINTS[endpoint.name]
        if isinstance(expected, str):
            continue
        items = [{"resource": "r"} | item for item in requests[endpoint.batch_of or endpoint.name]]
        core.entries.clear()
        if endpoint.batch_of:
            await endpoint.act(context, caller, api.BatchRequest(items=items))
        else:
            for item in items:
                await endpoint.act(context, caller, cast("Any", endpoint.request).model_validate(item))
        assert {entry.operation for entry in core.entries} == set(expected), endpoint.name
        assert {entry.source for entry in core.entries} == {"203.0.113.9"}
        assert all(entry.correlation_id for entry in core.entries)


def test_every_kmip_operation_is_audited_or_listed_with_a_reason() -> None:
    unaudited = {Operation(number).name for number, served in OPERATIONS.items() if served.audited is None}
    assert unaudited == set(audited.KMIP)


# ── the marketplace, the dashboard and the command ───────────────────────────────────────────────────────────────────


def test_every_route_of_the_marketplace_is_listed() -> None:
    secret = "whsec_" + base64.b64encode(b"s" * 32).decode()
    enrolment = EnrolmentConfig("http://127.0.0.1", ("eu-west-1",), Addresses("", ""), Issuers({}))
    offer = EndpointConfig([secret], "token", ("eu-west-1",), "http://127.0.0.1", 1000, enrolment)
    app = create_app(cast("Any", None), cast("Any", None), offer)
    served = {
        f"{method} {route.path}"
        for route in app.routes
        for method in getattr(route, "methods", ())
        if method != "HEAD" and hasattr(route, "path")
    }
    assert served == set(audited.ROUTES)


def test_each_route_writes_the_listed_events() -> None:
    code = Code("AuditName", ("marketplace",))
    assert code.reached("marketplace.events.accept", "accept") == names_of(audited.ROUTES["POST /v1/events"])
    assert code.reached("marketplace.enrolment.requests", "enrol") == names_of(audited.ROUTES["POST /v1/enrolments"])


def _dashboard_functions() -> set[str]:
    found = {
        "audit.stream.export",
        "downloads.Downloads.audit",
        "downloads.Downloads.certificate",
        "usage.page._export",
    }
    names = [one.name.removeprefix("dashboard.") for one in pkgutil.walk_packages(dashboard.__path__, "dashboard.")]
    for name in (name for name in names if name.endswith(".actions") or name == "auth.authorization"):
        module = importlib.import_module(f"dashboard.{name}")
        kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
        for owner in (module, *kinds):
            for function, value in inspect.getmembers(owner, inspect.isfunction):
                if not function.startswith("_") and value.__module__ == module.__name__:
                    found.add(f"{name}.{value.__qualname__}")
    return found


def test_every_action_of_the_dashboard_is_listed() -> None:
    assert _dashboard_functions() == set(audited.ACTIONS)


def test_each_action_writes_the_listed_events() -> None:
    code = Code("AuditName", ("dashboard",))
    for action, entry in audited.ACTIONS.items():
        parts = action.split(".")
        cut = 1 if parts[0] == "downloads" else 2
        module, function = ".".join(("dashboard", *parts[:cut])), ".".join(parts[cut:])
        assert code.reached(module, function) == names_of(entry), action


def test_workflows_are_requested_only_by_actions() -> None:
    """Each method of the dashboard's workflow interface is used, and only in modules whose functions are listed."""
    methods = {name for name, _ in inspect.getmembers(WorkflowBridge, inspect.isfunction) if not name.startswith("_")}
    used = set()
    for file in (ROOT / "dashboard").rglob("*.py"):
        found = set(re.findall(r"\.workflows\.(\w+)", file.read_text(encoding="utf-8")))
        assert not found or file.name == "actions.py", file
        used |= found
    assert used == methods


def test_every_command_is_listed() -> None:
    assert set(_COMMANDS) == set(audited.COMMANDS)


def test_each_command_writes_the_listed_events() -> None:
    code = Code("AuditName", ("cli", "compliance.audit.forwarding", "devstack"))
    for command, entry in audited.COMMANDS.items():
        callback = _COMMANDS[command]
        module, function = _MADE.get(command, (callback.__module__, callback.__qualname__))
        if module.startswith("openkcm."):  # the client has no access to the audit stream
            assert isinstance(entry, str), command
        else:
            assert code.reached(module, function) == names_of(entry), command


def test_every_workflow_request_of_a_command_is_recorded() -> None:
    """Each module that sends a request through the gateway records each: around it, or with the stored request."""
    for file in (ROOT / "cli").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        asks = len(re.findall(r"lambda gateway: ", source))
        assert asks <= len(re.findall(r"audited\(|command_event\(", source)), file


# ── the events ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_event_is_written_and_mapped_to_ocsf() -> None:
    assert {name for name, by in audited.writers().items() if not by} == set()
    assert set(OCSF) == set(AuditName)


def test_events_of_triggers_are_in_a_migration() -> None:
    migrations = "".join(file.read_text() for file in (ROOT / "database/schema/migrations").glob("*.sql"))
    for name in audited.BY_DATABASE:
        assert name.value in migrations or name.value.partition(".")[2] in migrations


def test_every_event_is_named_by_a_test() -> None:
    here = {ROOT / "tests/test_audit_complete.py", ROOT / "tests/compliance/audit/test_ocsf.py"}
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py") if file not in here]
    assert {name for name in AuditName if not any(_sees(text, name) for text in texts)} == set()


def _sees(test: str, name: AuditName) -> bool:
    """Return whether a test names an event: by its value, by the member, or by the rest after a prefix it strips."""
    if name.value in test or f"AuditName.{name.name}" in test:
        return True
    cuts = [match.end() for match in re.finditer(r"[._]", name.value)]
    return any(f'"{name.value[:cut]}"' in test and f'"{name.value[cut:]}"' in test for cut in cuts)


def test_every_reason_is_a_sentence() -> None:
    for _, table in audited.TABLES:
        assert all(entry for entry in table.values())
        assert all(len(entry) > _SHORTEST_REASON for entry in table.values() if isinstance(entry, str))


def test_static_analysis_finds_a_missing_call(tmp_path: Path) -> None:
    """Without its call, the same function reaches one event less."""
    (tmp_path / "activities").mkdir()
    source = (ROOT / "activities/provisioning.py").read_text(encoding="utf-8")
    (tmp_path / "activities/provisioning.py").write_text(
        re.sub(r"append_audit_event\(\s*tx, step, AuditName\.PAYLOAD_KEY.*\n\s*\)", "", source)
    )
    code = Code("AuditName", ("activities",), tmp_path)
    assert code.reached("activities.provisioning", "TenantKeyActivities.create_keys") == {
        "PROVISION_ROLLED_BACK",
        "TENANT_KEY_CREATED",
    }
    with pytest.raises(KeyError):
        code.reached("activities.provisioning", "TenantKeyActivities.gone")


def test_every_crypto_operation_has_an_event() -> None:
    assert {audited.named(operation) for operation in CryptoOperation} == {
        *(AuditName.CRYPTO_KEY_RELEASED, AuditName.CRYPTO_KEY_CHANGED, AuditName.CRYPTO_USED),
        AuditName.SERVICE_KEY_OPENED,
    }
