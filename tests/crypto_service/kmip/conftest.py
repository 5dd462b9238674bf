from tests.crypto_service.kmip.scene import base, scene

__all__ = ["base", "scene"]
