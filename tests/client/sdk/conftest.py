from tests.crypto_service.https.conftest import service, stage, world

__all__ = ["service", "stage", "world"]
