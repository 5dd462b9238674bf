"""`openkcmctl`: the command of operators."""

from config.settings import command_log_file
from openkcm.cli.application import Application

APPLICATION = Application(
    program="openkcmctl",
    summary="Operate the OpenKCM tenant controller.",
    distribution="openkcm-tenant-controller",
    modules={
        "cli.tenants.commands": ("tenant",),
        "cli.services.commands": ("service",),
        "cli.root_keys.commands": ("root-key",),
        "cli.rotation": ("key",),
        "cli.certificates": ("certificate",),
        "cli.isolation": ("isolation",),
        "cli.tenants.notifications": ("notification",),
        "cli.audit.commands": ("audit",),
        "cli.reports": ("report",),
        "cli.doctor": ("doctor",),
        "cli.setup": ("setup",),
    },
    log_file=command_log_file,
    verdicts=[("isolation", "check"), ("audit", "reconcile"), ("doctor",)],
)
main, entry = APPLICATION.main, APPLICATION.entry

if __name__ == "__main__":
    entry()
