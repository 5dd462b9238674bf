"""Replays recorded histories with the current workflows: running workflows must continue after a deployment.

An edit that changes the order of commands needs `workflow.patched`; the old histories are kept and must still replay.
`python tests/replay/test_replay.py --write` records missing histories. Delete a history, so that it is recorded
again, only when the older runs of the workflow have ended everywhere.
"""

import asyncio
import importlib.util
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from tests.replay.recording import WORKFLOWS, record_all
from tests.tracing.collector import tracer_into
from workflows.runtime.tracing import TraceInterceptor

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "workflows" / "provisioning.py"
RECORDED = sorted(path.stem for path in HERE.glob("*.json"))

_KEYS = "            run_activity(TenantKeyActivities.create_keys, step, TITLES[Step.CREATE_KEYS]),\n"
_AUTHORITY = "            run_activity(TenantCaActivities.create_authority, step, TITLES[Step.CREATE_AUTHORITY]),\n"
_ACTIVATE = "        return await run_local_activity(ProvisioningActivities.activate, step, TITLES[Step.ACTIVATE])\n"
_PROMISE = '        await workflow.sleep(promised, summary="provisioning SLO")\n'


def line_with(source: str, call: str) -> str:
    """Return the only line of the source that contains a call."""
    [line] = [line for line in source.splitlines(keepends=True) if call in line]
    return line


def swap_steps(source: str) -> str:
    keys, authority = line_with(source, ".create_keys,"), line_with(source, ".create_authority,")
    return source.replace(keys, "\0").replace(authority, keys).replace("\0", authority)


def remove_step(source: str) -> str:
    return source.replace(line_with(source, ".activate,"), "        return ActivateResult(messages=1)\n")


def repeat_step(source: str) -> str:
    line = line_with(source, ".activate,")
    return source.replace(line, line.replace("return ", "") + line)


def remove_timer(source: str) -> str:
    return source.replace(line_with(source, "workflow.sleep("), "        return\n")


EDITS: dict[str, Callable[[str], str]] = {
    "swapped steps": swap_steps,
    "removed step": remove_step,
    "repeated step": repeat_step,
    "removed timer": remove_timer,
}
"""Edits of workflows/provisioning.py that running workflows do not survive."""


def recorded(name: str) -> WorkflowHistory:
    return WorkflowHistory.from_json(f"recorded-{name}", (HERE / f"{name}.json").read_text(encoding="utf-8"))


def edited_workflow(folder: Path, edit: Callable[[str], str]) -> type:
    """Return ProvisionTenant after an edit of its source."""
    source = SOURCE.read_text(encoding="utf-8")
    edited = folder / "edited_provision.py"
    edited.write_text(edit(source), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited_provision", edited)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    workflow: type = module.ProvisionTenant
    return workflow


def test_every_outcome_of_a_workflow_is_recorded():
    outcomes = {
        "assessment": "made",
        "assessments": "concurrent in-turn",
        "authority": "refused rolled",
        "expiry": "checked",
        "keys": "compromised due not-rotated",
        "offboard": "destroyed restored",
        "provision": "failed late ready retried",
        "root-key": "changed followed refused versions-noticed",
        "root-keys": "watched",
        "service": "refused renewed",
        "tenant": "approved followed left moved ready retried rolled rotated",
    }
    assert set(RECORDED) == {f"{name}-{one}" for name, found in outcomes.items() for one in found.split()}


@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
@pytest.mark.parametrize("name", RECORDED)
async def test_a_recorded_history_replays_with_the_current_workflows(name, traced):
    interceptors = [TraceInterceptor(tracer_into([]))] if traced else []
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter, interceptors=interceptors)
    await replayer.replay_workflow(recorded(name))


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_that_blocks_running_workflows_does_not_replay(edit, tmp_path):
    replayer = Replayer(
        workflows=[edited_workflow(tmp_path, EDITS[edit])],
        workflow_runner=UnsandboxedWorkflowRunner(),
        data_converter=pydantic_data_converter,
    )
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(recorded("provision-ready"))


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_history_contains_no_name_of_a_machine(name):
    text = (HERE / f"{name}.json").read_text(encoding="utf-8")
    assert not [mark for mark in ("stackTrace", ".py", socket.gethostname()) if mark in text]


def without_traces(part: Any) -> Any:
    """Return the history without stack traces: replay ignores them, and they contain paths of this machine."""
    if isinstance(part, dict):
        return {key: without_traces(value) for key, value in part.items() if key != "stackTrace"}
    return [without_traces(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__" and "--write" in sys.argv:
    for stem, history in asyncio.run(record_all()).items():
        if stem in RECORDED:
            continue  # older runs of the workflow may still exist
        text = json.dumps(without_traces(history.to_json_dict()), indent=1, sort_keys=True)
        (HERE / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
