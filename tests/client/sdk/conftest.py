from tests.crypto_service.https.conftest import stage
from tests.crypto_service.running.conftest import service, world

__all__ = ["service", "stage", "world"]
