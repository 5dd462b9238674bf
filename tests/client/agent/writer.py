"""Writes a service's folder repeatedly as the agent does, in a process that may be killed at any moment.

Arguments: folder, rounds, and the file operation before which to kill the process (0: never). Each round writes another
certificate.
"""

import os
import signal
import sys
from pathlib import Path

from openkcm.contract.client_files import Offer, configuration
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from tests.client.agent.control import SERVICE, TENANT, certify
from tests.crypto_service.authority import pem, root, tenant_authority

_EFFECTS = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod", "os.truncate")


def kill_before(number: int, folder: str) -> None:
    """Kill this process before its nth file operation in the folder; a surviving process had fewer."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _EFFECTS or (event == "open" and not _writes(arguments)):
            return
        if not any(isinstance(one, str | os.PathLike) and _is_in_folder(str(one), folder) for one in arguments):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _writes(arguments: tuple[object, ...]) -> bool:
    return bool(int(str(arguments[2] or 0)) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _is_in_folder(path: str, folder: str) -> bool:
    """Return whether a path is in the folder; relative to a descriptor, a file has its bare name."""
    return path.startswith(folder) or "/" not in path


def main() -> None:
    folder, rounds, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if number:
        kill_before(number, str(folder))
    store = CredentialStore(folder, TENANT, SERVICE)
    with store.held():
        store.request()
        key = store._key().public_key()
        for round_ in range(rounds):
            presented = pem(certify(key)) + tenant_authority(TENANT).pem
            offer = Offer("https://localhost:1", f"localhost:{1000 + round_}")
            files = configuration(ServiceKind.MONGODB, SERVICE, str(folder), offer, presented + store.key_pem())
            store.write_changed({"ca.pem": root().pem} | files | {"client.pem": presented})
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
