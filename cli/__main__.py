"""`openkcmctl`: the command of operators."""

import os
from pathlib import Path
from typing import NoReturn

from openkcm.cli.application import Application


def _log_file() -> Path:
    from config.settings import command_log_file  # noqa: PLC0415 - slow, and only a failure needs it

    return command_log_file()


APPLICATION = Application(
    program="openkcmctl",
    summary="Operate the OpenKCM tenant controller.",
    distribution="openkcm-tenant-controller",
    modules={
        "cli.tenants.commands": {"tenant": "Show, lock, suspend, offboard and restore tenants."},
        "cli.services.commands": {"service": "Connect databases and services to a tenant's keys."},
        "cli.root_keys.commands": {"root-key": "Show, test and change the root key of a tenant."},
        "cli.rotation": {"key": "Rotate tenant keys and service keys."},
        "cli.certificates": {"certificate": "Rotate certificate authorities and fetch revocation lists."},
        "cli.isolation": {"isolation": "Check the isolation of tenants."},
        "cli.tenants.notifications": {"notification": "List and retry undelivered notifications."},
        "cli.audit.commands": {"audit": "Export, forward and reconcile audit streams."},
        "cli.reports": {"report": "Create compliance reports."},
        "cli.doctor": {
            "doctor": "Check servers, processes and certificates, or compare what the servers have about tenants."
        },
        "cli.setup": {"setup": "Prepare your own servers, once and after each upgrade."},
    },
    separate_modules={("tenant", "show"): "cli.tenants.show"},
    log_file=_log_file,
    verdicts=[("isolation", "check"), ("audit", "reconcile"), ("doctor",)],
)
main = APPLICATION.main


def entry() -> NoReturn:
    """Run the command of this process and end it."""
    # No plugin of pydantic is used, and the search for one reads the metadata of every installed distribution.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    APPLICATION.entry()


if __name__ == "__main__":
    entry()
