"""The fixtures of the commands: an operator's terminal over a database, and a worker over real servers."""

from tests.cli.root_key_stand import desk, secrets_folder
from tests.cli.service_stand import command, running_worker, services_field, settings

__all__ = ["command", "desk", "running_worker", "secrets_folder", "services_field", "settings"]
