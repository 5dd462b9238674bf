"""Replays recorded histories with today's workflows: what runs in production now must continue after a deploy.

When an edit is meant to change the order of commands, gate it with `workflow.patched`; the old histories stay and must
go on replaying. `python tests/histories/test_replay.py --write` records what is not recorded yet; delete a recording,
so that it is made again, only when the workflow's older runs have ended everywhere.
"""

import asyncio
import importlib.util
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from tests.histories.recording import WORKFLOWS, record_all

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "workflows" / "provisioning.py"
RECORDED = sorted(path.stem for path in HERE.glob("*.json"))

_KEYS = "            run_activity(TenantKeyActivities.create_keys, step, TITLES[Step.CREATE_KEYS]),\n"
_AUTHORITY = "            run_activity(TenantCaActivities.create_authority, step, TITLES[Step.CREATE_AUTHORITY]),\n"
_ACTIVATE = "        return await run_local_activity(ProvisioningActivities.activate, step, TITLES[Step.ACTIVATE])\n"
_PROMISE = '        await workflow.sleep(promised, summary="the promise of a ready tenant")\n'

# What each edit makes of pieces of workflows/provisioning.py.
EDITS = {
    "two steps in another order": {_KEYS: _AUTHORITY, _AUTHORITY: _KEYS},
    "a step left out": {_ACTIVATE: "        return ActivateResult(messages=1)\n"},
    "a step added": {_ACTIVATE: _ACTIVATE.replace("return ", "") + _ACTIVATE},
    "the alarm's timer left out": {_PROMISE: "        return\n"},
}


def recorded(name: str) -> WorkflowHistory:
    return WorkflowHistory.from_json(f"recorded-{name}", (HERE / f"{name}.json").read_text(encoding="utf-8"))


def edited_workflow(folder: Path, edit: dict[str, str]) -> type:
    """Return ProvisionTenant as it would be after an edit."""
    source = SOURCE.read_text(encoding="utf-8")
    pieces = re.split("(" + "|".join(map(re.escape, edit)) + ")", source)
    assert set(edit) <= set(pieces)
    edited = folder / "edited_provisioning.py"
    edited.write_text("".join(edit.get(piece, piece) for piece in pieces), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited_provisioning", edited)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    workflow: type = module.ProvisionTenant
    return workflow


def test_every_ending_is_recorded():
    endings = {
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
    assert set(RECORDED) == {f"{name}-{ending}" for name, found in endings.items() for ending in found.split()}


@pytest.mark.parametrize("name", RECORDED)
async def test_recorded_history_replays_with_todays_workflows(name):
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter)
    await replayer.replay_workflow(recorded(name))


@pytest.mark.parametrize("edit", EDITS)
async def test_edit_that_would_block_running_workflows_does_not_replay(edit, tmp_path):
    replayer = Replayer(
        workflows=[edited_workflow(tmp_path, EDITS[edit])],
        workflow_runner=UnsandboxedWorkflowRunner(),
        data_converter=pydantic_data_converter,
    )
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(recorded("provision-ready"))


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_history_names_no_machine(name):
    text = (HERE / f"{name}.json").read_text(encoding="utf-8")
    assert not [mark for mark in ("stackTrace", ".py", socket.gethostname()) if mark in text]


def without_traces(part: Any) -> Any:
    """Return the history without stack traces: replay does not read them, and they name places on this machine."""
    if isinstance(part, dict):
        return {key: without_traces(value) for key, value in part.items() if key != "stackTrace"}
    return [without_traces(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__" and "--write" in sys.argv:
    for stem, history in asyncio.run(record_all()).items():
        if stem in RECORDED:
            continue  # it may still run somewhere
        text = json.dumps(without_traces(history.to_json_dict()), indent=1, sort_keys=True)
        (HERE / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
