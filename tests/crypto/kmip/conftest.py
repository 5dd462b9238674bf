from tests.crypto.kmip.scene import base, scene

__all__ = ["base", "scene"]
