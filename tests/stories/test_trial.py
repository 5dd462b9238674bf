"""The end of the demonstration: a connected service encrypts a record in front of the customer."""

import json

import pytest

from tests.stories.stack import Stack
from tests.stories.tenants import new_tenant


def refused(stack: Stack, folder: object) -> str:
    """Return the code with which a try in `folder` was refused."""
    done = stack.run("service", "try", str(folder), "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert error["hint"]
    code: str = error["code"]
    return code


@pytest.mark.e2e
def test_service_try_encrypts_for_one_resource_until_the_service_is_disconnected(stack, tmp_path):
    tenant, folder = new_tenant(stack, "trial"), tmp_path / "records"
    assert refused(stack, tmp_path) == "certificate_unusable"
    stack.command("service", "connect", tenant, "--kind", "microservice", "--name", "records", "--out", str(folder))
    answer = stack.command("service", "try", str(folder), "--record", "Jane Roe", "--resource", "customers/7")
    assert answer["decrypted"] == "Jane Roe"
    assert answer["ciphertext"].startswith("okcm:v1:")
    assert answer["opens_elsewhere"] is False
    stack.command("service", "disconnect", tenant, "records")
    assert refused(stack, folder) == "caller_refused"
