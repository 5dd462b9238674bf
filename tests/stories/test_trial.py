"""The end of the demonstration: a connected service encrypts a record in front of the customer."""

from tests.stories.connected import refused
from tests.stories.tenants import new_tenant


def test_service_try_encrypts_for_one_resource_until_the_service_is_disconnected(stack, tmp_path):
    tenant, folder = new_tenant(stack, "trial"), tmp_path / "records"
    assert refused(stack, "service", "try", str(tmp_path)) == "certificate_unusable"
    stack.command("service", "connect", tenant, "--kind", "microservice", "--name", "records", "--out", str(folder))
    answer = stack.command("service", "try", str(folder), "--record", "Jane Roe", "--resource", "customers/7")
    assert answer["decrypted"] == "Jane Roe"
    assert answer["ciphertext"].startswith("okcm:v1:")
    assert answer["opens_elsewhere"] is False
    stack.command("service", "disconnect", tenant, "records")
    assert refused(stack, "service", "try", str(folder)) == "caller_refused"
