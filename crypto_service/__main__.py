"""`python -m crypto_service`: read settings and secrets, then run one worker process per core and one shipper."""

import gc
import os
import sys
from functools import partial

import structlog

from config.settings import Settings, load_settings
from core.errors.platform import SettingsInvalid
from crypto_service.audit.wal import journal_folder
from crypto_service.processes.shipper_process import deliver
from crypto_service.processes.supervisor import Child, Supervisor
from crypto_service.processes.worker_process import serve
from crypto_service.server.client_authorities import discard_authorities
from crypto_service.server.hardening import harden
from crypto_service.server.tls import SharedTlsIdentity
from crypto_service.wiring import read_credentials
from openkcm.errors import OpenKcmError, os_reason
from openkcm.logging import configure_logs

_STOP_MARGIN_SECONDS = 5.0


def run(settings: Settings) -> None:
    """Run the service until it is stopped; raise SettingsInvalid for a missing secret and a port that is in use."""
    credentials = read_credentials(settings)
    discard_authorities(journal_folder(settings.state_dir))
    harden()
    count = settings.crypto_processes or len(os.sched_getaffinity(0))
    serving = partial(serve, settings, credentials, SharedTlsIdentity())
    children = [Child(f"serve-{number}", serving) for number in range(1, count + 1)]
    # The shipper stops last, so that it ships what the workers wrote before they ended.
    children.append(Child("deliver", partial(deliver, settings, credentials), stage=1))
    address = (settings.crypto_metrics_host, settings.crypto_metrics_port)
    stop_seconds = settings.shutdown_grace_seconds + _STOP_MARGIN_SECONDS
    try:
        supervision = Supervisor(children, address, stop_seconds, settings.shutdown_notice_seconds)
    except OSError as taken:
        raise SettingsInvalid(
            f"port {settings.crypto_metrics_port} of {settings.crypto_metrics_host} cannot be used: {os_reason(taken)}",
            "change crypto_metrics_host or crypto_metrics_port, or end the process that uses the port",
        ) from None
    # The collector would write to, and so copy, all memory that is shared with the children.
    gc.freeze()
    supervision.run()


def main() -> None:
    """Run the process."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "crypto")
        run(settings)
    except OpenKcmError as refused:
        sys.exit(f"crypto cannot start: {refused.code}: {refused.message}\nhint: {refused.hint}")
    except OSError as failed:  # the state folder
        structlog.get_logger().error("crypto cannot start", reason=os_reason(failed))
        sys.exit(1)


if __name__ == "__main__":
    main()
