from tests.database.fixtures import field, server, template, worker

__all__ = ["field", "server", "template", "worker"]
