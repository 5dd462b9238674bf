"""`openkcm`: the command of customers and auditors; it reads no settings of the platform."""

from openkcm.cli.application import Application

APPLICATION = Application(
    program="openkcm",
    summary="Run services with keys of OpenKCM, and verify offline what the platform issues.",
    distribution="openkcm",
    modules={
        "openkcm.cli.agent": {"agent": "Enrol a service, renew its certificate and notify the service."},
        "openkcm.cli.run": {"run": "Run a Python program with its protected columns encrypted."},
        "openkcm.cli.backfill": {"backfill": "Encrypt values that were stored before their columns were protected."},
        "openkcm.cli.audit": {"audit": "Verify audit exports, erasure certificates and compliance reports."},
    },
    log_file=lambda: None,
    verdicts=[("audit", "verify")],
)
main, entry = APPLICATION.main, APPLICATION.entry

if __name__ == "__main__":
    entry()
