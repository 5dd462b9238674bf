"""I rotate my keys: my services go on, what they encrypted before opens, and the old tenant key opens nothing."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stories.clients import OK, Program
from tests.stories.connected import connect
from tests.stories.stack import Stack

TENANT = "rotating-corp-6"


@pytest.fixture(scope="module")
def program(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A service of a tenant, with data of before any rotation."""
    stack.enable(TENANT, "Rotating Corp")
    folder = tmp_path_factory.mktemp("rotating")
    program = Program(connect(stack, TENANT, "microservice", "ledger", folder / "ledger"))
    program.settle()
    yield program
    program.hang_up()


def states(document: dict[str, Any]) -> dict[int, str]:
    return {key["version"]: key["state"] for key in document["service_keys"]}


def test_i_rotate_everything_while_my_service_works(stack: Stack, program: Program) -> None:
    answers: list[dict[str, str]] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            answers.append(program.probe())

    working = threading.Thread(target=work)
    working.start()
    try:
        rotated = stack.command("rotate", TENANT)
    finally:
        over.set()
        working.join()
    assert rotated["operation"]["state"] == "done"
    assert rotated["l2_versions"] == {"newest": 2, "oldest": 2}
    assert states(rotated) == {1: "deactivated", 2: "active"}
    assert {outcome for answer in answers for outcome in answer.values()} == {OK}
    assert set(program.probe().values()) == {OK}
    assert stack.command("tenant", "show", TENANT)["service_keys"] == rotated["service_keys"]


def test_a_second_rotation_makes_the_next_versions_and_i_am_told(stack: Stack, program: Program) -> None:
    rotated = stack.command("rotate", TENANT, "--service", "ledger")
    assert states(rotated) == {1: "deactivated", 2: "deactivated", 3: "active"}
    assert rotated["l2_versions"] == {"newest": 2, "oldest": 2}
    assert set(program.probe().values()) == {OK}
    assert stack.callback.about(TENANT, "keys-rotated")
