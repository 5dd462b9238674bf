"""The ordered commands of each workflow, compared with a record: an unintended edit would block running workflows.

A replay fails after an activity, timer, child or search attribute was added, removed or reordered. Guard such an edit
with `workflow.patched`, replay tests/replay, then write a new record:
`python tests/workflows/test_fingerprints.py --write`.
"""

import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("fingerprints.json")

COMMANDS = {
    "run_activity",
    "run_key_server_activity",
    "run_local_activity",
    "workflow.execute_activity_method",
    "workflow.execute_local_activity_method",
    "workflow.execute_child_workflow",
    "workflow.start_child_workflow",
    "workflow.sleep",
    "workflow.wait_condition",
    "workflow.upsert_search_attributes",
    "workflow.patched",
    "workflow.deprecate_patch",
    "workflow.continue_as_new",
    "workflow.uuid4",
    "asyncio.gather",
}


def _commands(function: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in COMMANDS:
            name = ast.unparse(node.func)
            what = (
                ast.unparse(node.args[0])
                if node.args and name not in {"asyncio.gather", "workflow.continue_as_new"}
                else ""
            )
            found.append((node.lineno, node.col_offset, f"{name}({what})"))
    return [text for _, _, text in sorted(found)]


def fingerprints(source: str) -> dict[str, dict[str, list[str]]]:
    """Return the commands of each class in `source` by method; classes without commands are left out."""
    result = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
            found = {m.name: commands for m in methods if (commands := _commands(m))}
            if found:
                result[node.name] = found
    return result


def all_fingerprints() -> dict[str, dict[str, list[str]]]:
    """Return the fingerprints of all workflows in the package."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((ROOT / "workflows").rglob("*.py")):
        found |= fingerprints(path.read_text(encoding="utf-8"))
    return found


def test_no_workflow_changed_its_commands_without_a_new_record():
    assert all_fingerprints() == json.loads(RECORD.read_text(encoding="utf-8"))


def test_a_reordered_step_changes_the_fingerprint():
    source = (ROOT / "workflows" / "provisioning.py").read_text(encoding="utf-8")
    first, second = "IsolationGateActivities.check_boundaries", "ProvisioningActivities.activate"
    swapped = source.replace(first, "\0").replace(second, first).replace("\0", second)
    assert swapped != source
    assert fingerprints(swapped) != fingerprints(source)


if __name__ == "__main__" and "--write" in sys.argv:
    RECORD.write_text(json.dumps(all_fingerprints(), indent=2) + "\n", encoding="utf-8")
