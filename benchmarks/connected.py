"""A stack with one tenant and one connected service, for the benchmarks of the crypto service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stack import Stack


@contextmanager
def connected_stack(tenant_id: str, kind: str, **settings: float | str) -> Iterator[tuple[Stack, Path]]:
    """Yield the stack and the folder with the service's key, certificate and configuration."""
    with Stack(**settings) as stack:
        folder = stack.folder / "service"
        stack.openkcm("enable", tenant_id, "--organization", "Bench Corp", "--region", "eu-west-1", "--wait")
        stack.openkcm("service", "connect", tenant_id, "--kind", kind, "--name", "bench", "--out", str(folder))
        yield stack, folder
