"""The shipper process: runs `AuditShipper` with a database, reports to its parent, and stops on SIGTERM."""

import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial

import structlog

from config.settings import Settings
from core.tenants.status import ProcessKind
from crypto_service import wiring
from crypto_service.audit.shipper import AuditShipper
from crypto_service.audit.wal import journal_folder
from crypto_service.server.hardening import harden
from crypto_service.server.metrics import Report
from crypto_service.wiring import Credentials
from database.platform.processes import ProcessReporter
from openkcm.errors import OpenKcmError

_REPORT_SECONDS = 0.5

log = structlog.get_logger()


def deliver(settings: Settings, credentials: Credentials, reports: socket.socket) -> None:
    """Ship until SIGTERM, then the remainder; the job of a child that is stopped after the workers."""
    harden()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = wiring.open_database(settings, credentials, connections=2)
    reporter = wiring.process_reporter(database, ProcessKind.SHIPPER)
    shipper = AuditShipper(journal_folder(settings.state_dir), database, partial(_report_shipped, reporter))
    reporting = threading.Thread(target=_send_reports, args=(shipper, reports, stop), name="reports", daemon=True)
    reporting.start()
    try:
        shipper.run(stop)
    finally:
        with suppress(OpenKcmError):
            reporter.withdraw()
        database.close()


def _report_shipped(reporter: ProcessReporter) -> None:
    # After each batch, so that a report proves that the counters are complete up to its time. The next one follows.
    with suppress(OpenKcmError):
        reporter.write(None)


def _send_reports(shipper: AuditShipper, reports: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        totals = shipper.totals
        failing = time.monotonic() - totals.failing_since if totals.failing_since else 0.0
        report = Report(
            counters={
                ("openkcm_crypto_audit_shipped_records", ()): totals.lines,
                ("openkcm_crypto_audit_dead_letter_records", ()): totals.set_aside,
                ("openkcm_crypto_wal_corrupt_records", ()): totals.damaged,
            },
            gauges={
                ("openkcm_crypto_wal_pending_bytes", ()): totals.waiting_bytes,
                ("openkcm_crypto_wal_capacity_bytes", ()): totals.capacity_bytes,
                ("openkcm_crypto_audit_shipping_failing_seconds", ()): failing,
            },
        )
        with suppress(OSError):
            reports.send(report.encode(), socket.MSG_DONTWAIT)
        stop.wait(_REPORT_SECONDS)
