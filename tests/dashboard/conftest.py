from tests.dashboard.scene import scene

__all__ = ["scene"]
