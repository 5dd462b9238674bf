from tests.workflows.conftest import region, script

__all__ = ["region", "script"]
