"""`python -m devstack.stack`: the supervisor of one state folder, until SIGTERM; `python -m devstack up` starts it."""

import fcntl
import os
import signal
import sys
from typing import IO

from config.secrets import ensure_secrets
from config.settings import Settings, load_settings
from core.errors.platform import ComponentFailed
from devstack.servers import process
from devstack.servers.base import make_private
from devstack.stack import control
from devstack.stack.components import addresses, components
from devstack.stack.supervisor import Supervisor
from openkcm.errors import OpenKcmError
from openkcm.logging import configure_logs


def main() -> None:
    """Supervise until a signal stops it."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "supervisor")
        make_private(settings.state_dir, control.run_folder(settings))
        lock = _only_one(settings)
        _introduce(settings)
        ensure_secrets(settings.secrets)
        supervisor = Supervisor(components(settings), control.status_file(settings), {"addresses": addresses(settings)})
    except OpenKcmError as refused:
        sys.exit(f"supervisor cannot start: {refused.code}: {refused.message}\nhint: {refused.hint}")
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: supervisor.request_stop())
    supervisor.run()
    lock.close()


def _introduce(settings: Settings) -> None:
    """Leave our identity where the commands look for it."""
    me = process.identify(os.getpid())
    if me is not None:
        me.save(control.supervisor_file(settings))


def _only_one(settings: Settings) -> IO[str]:
    """Hold the folder's lock for as long as this process lives; the kernel releases it however the process ends."""
    lock = (control.run_folder(settings) / "supervisor.lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ComponentFailed("another supervisor has this state folder", "make status") from None
    return lock


if __name__ == "__main__":
    main()
