"""Random processes of a whole installation are killed while customers use it; afterwards everything is as asked.

`make chaos` kills 500. The seed is that of the random order of the tests: `--randomly-seed` repeats the choices.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter

import pytest

from tests.chaos.random_kills.customer import Customer
from tests.chaos.random_kills.evidence import assert_as_asked
from tests.chaos.random_kills.killer import kill_randomly, start
from tests.chaos.root_keys.changing import Customers
from tests.e2e.stack import Stack
from workflows.client.workflow_client import WorkflowClient

_KILLS = {False: 12, True: 500}
_CONCURRENT = 5
_OPERATIONS = 6
_CALM_SECONDS = 900
"""The time in which all operations must be complete after the last kill."""


async def unfinished(customers: list[Customer]) -> list[str]:
    """Return the tenants whose stored state is not the requested one, with both and the completed operations."""
    return [
        f"{one.tenant_id}: {shown} instead of {one.state}, after {dict(one.operations)}"
        for one in customers
        if (shown := await one.shown_state()) is not one.state
    ]


@pytest.fixture
def holders(tmp_path):
    started = Customers.start(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def installation(tmp_path, holders):
    stack = Stack(tmp_path / "installation", aws_kms_endpoint=holders.aws.url)
    start(stack)
    yield stack
    stack.command("down")
    stack.close()


@pytest.mark.chaos
def test_every_operation_takes_effect_once_although_random_processes_are_killed(installation, holders, request, capsys):
    seed = request.config.getoption("randomly_seed")
    kills = _KILLS[request.config.getoption("--long")]
    customers: list[Customer] = []
    rejections: Counter[str] = Counter()
    began = time.monotonic()

    async def use(gateway: WorkflowClient, killing: asyncio.Task[Counter[str]]) -> None:
        """Use one tenant after another until the last kill."""
        while not killing.done():
            name = f"chaos-{len(customers) + 1}"
            choices = random.Random(f"{seed}/{name}")  # noqa: S311 - not for cryptography
            customers.append(Customer(installation, gateway, holders, name, choices, rejections))
            await customers[-1].use(_OPERATIONS)

    async def run() -> Counter[str]:
        settings = installation.settings
        gateway = await WorkflowClient.connect(settings.temporal_address, settings.provisioning_slo_seconds)
        choices = random.Random(f"{seed}/kills")  # noqa: S311 - not for cryptography
        killing = asyncio.create_task(kill_randomly(installation, choices, kills))
        using = [asyncio.create_task(use(gateway, killing)) for _ in range(_CONCURRENT)]
        killed = await killing
        await asyncio.to_thread(start, installation)
        try:
            async with asyncio.timeout(_CALM_SECONDS):
                await asyncio.gather(*using)
        except TimeoutError:
            pytest.fail(f"seed {seed}: not as requested: {await unfinished(customers)}")
        return killed

    killed = asyncio.run(run())
    counted = assert_as_asked(installation, customers)
    result = {
        "seed": seed,
        "kills": dict(killed),
        "tenants": dict(Counter(customer.state for customer in customers)),
        "operations": dict(sum((customer.operations for customer in customers), Counter())),
        "repeated after": dict(rejections),
        "checked": dict(counted),
        "seconds": round(time.monotonic() - began),
    }
    with capsys.disabled():
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
