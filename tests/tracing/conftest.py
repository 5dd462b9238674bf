from tests.crypto_service.kmip.scene import base, scene
from tests.workflows.conftest import region, script

__all__ = ["base", "region", "scene", "script"]
