"""Writes a service's folder as the agent does, over and over, in a process that may be killed at any moment.

Arguments: folder, rounds, and after which effect on files to die (0: never). Each round is another certificate.
"""

import os
import signal
import sys
from pathlib import Path

from openkcm.contract.client_files import Offer, configuration
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from tests.client.agent.control import SERVICE, TENANT, certify
from tests.crypto_service.https.authority import pem, root, tenant_authority

_EFFECTS = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod", "os.truncate")


def die_before(number: int, folder: str) -> None:
    """Kill this process before its nth effect in the folder; where it survives, it had fewer."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _EFFECTS or (event == "open" and not _writes(arguments)):
            return
        if not any(isinstance(one, str | os.PathLike) and _ours(str(one), folder) for one in arguments):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _writes(arguments: tuple[object, ...]) -> bool:
    return bool(int(str(arguments[2] or 0)) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _ours(path: str, folder: str) -> bool:
    """Through a descriptor a file has its bare name."""
    return path.startswith(folder) or "/" not in path


def main() -> None:
    folder, rounds, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if number:
        die_before(number, str(folder))
    held = CredentialStore(folder, TENANT, SERVICE)
    with held.held():
        held.request()
        key = held._key().public_key()
        for round_ in range(rounds):
            presented = pem(certify(key)) + tenant_authority(TENANT).pem
            offer = Offer("https://localhost:1", f"localhost:{1000 + round_}")
            files = configuration(ServiceKind.MONGODB, SERVICE, str(folder), offer, presented + held.key_pem())
            held.write_changed({"ca.pem": root().pem} | files | {"client.pem": presented})
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
