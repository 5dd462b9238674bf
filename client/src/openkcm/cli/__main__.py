"""`openkcm`: the command of customers and auditors; it reads no settings of the platform."""

from openkcm.cli.application import Application

_APPLICATION = Application(
    program="openkcm",
    summary="Run services with keys of OpenKCM, and verify offline what the platform issues.",
    distribution="openkcm",
    modules={
        "openkcm.cli.agent": ("agent",),
        "openkcm.cli.run": ("run",),
        "openkcm.cli.backfill": ("backfill",),
        "openkcm.cli.audit": ("audit",),
    },
    log_file=lambda: None,
    verdicts=[("audit", "verify")],
)
main, entry = _APPLICATION.main, _APPLICATION.entry

if __name__ == "__main__":
    entry()
