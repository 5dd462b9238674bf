from tests.crypto.kmip.scene import base, scene
from tests.database.fixtures import field, server, template

__all__ = ["base", "field", "scene", "server", "template"]
