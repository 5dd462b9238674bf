"""OpenKCM's own metrics, served beside Temporal's at the worker's Prometheus endpoint. No tenant is ever a label."""

from collections import Counter
from collections.abc import Iterable, Mapping

from temporalio import activity

from tenancy.boundaries import CheckResult, outcomes
from tenancy.expiry import Ending, Stage
from tenancy.rotation import Stuck


def ready(seconds: float) -> None:
    """Record how long a tenant took from its accepted event to active, seconds."""
    histogram = activity.metric_meter().create_histogram_float(
        "openkcm_ready_seconds", "Time from the accepted event to an active tenant", "s"
    )
    histogram.record(seconds)


def promise_broken() -> None:
    """Count an attempt to record a broken promise; alert on any increase."""
    activity.metric_meter().create_counter("openkcm_promise_broken", "Broken promises of a ready tenant").add(1)


def boundaries_checked(results: Iterable[CheckResult]) -> None:
    """Count boundary checks by outcome; alert on any increase of breached."""
    meter = activity.metric_meter()
    counter = meter.create_counter("openkcm_boundary_checks", "Attacks across a tenant boundary, by how they ended")
    for outcome, number in outcomes(results).items():
        counter.add(number, {"outcome": outcome})


def examinations_troubled(found: Iterable[str]) -> None:
    """Count tenants whose walls somebody must look at, at each look; alert on any increase. A counter, as below."""
    counter = activity.metric_meter().create_counter(
        "openkcm_examinations_troubled", "Tenants found with a breached boundary, or a late examination"
    )
    for why, number in Counter(found).items():
        counter.add(number, {"why": why})


def endings(found: Iterable[tuple[Ending, Stage]]) -> None:
    """Count what was found not renewed, at each look; alert on any increase.

    A counter and no gauge: another worker may make the next look, and a gauge would stay with the one that saw it last.
    """
    counter = activity.metric_meter().create_counter(
        "openkcm_not_renewed", "Certificates, authorities, revocation lists and the PKI root found late or lapsed"
    )
    for (kind, stage), number in Counter(found).items():
        counter.add(number, {"kind": kind, "stage": stage})


def stuck_rotations(found: Iterable[Stuck]) -> None:
    """Count rotations that did not come to their end, at each look; alert on any increase. A counter, as above."""
    counter = activity.metric_meter().create_counter(
        "openkcm_rotations_stuck", "Tenants found with keys that are to be rotated and are not"
    )
    for why, number in Counter(found).items():
        counter.add(number, {"why": why})


def audit_differences(found: Mapping[str, int]) -> None:
    """Count how the key server's own log and our streams differ, at each look; alert on any increase."""
    counter = activity.metric_meter().create_counter(
        "openkcm_audit_differences", "Differences between the key server's audit log and the audit streams"
    )
    for kind, number in found.items():
        counter.add(number, {"kind": kind})
