"""Temporal's Worker Versioning: which version of the workers takes new workflows (docs/adr/0018).

A workflow that is pinned ends on the version that started it. All others continue on the current version. A version
becomes current when its first worker starts, if it is newer than the current one. An operator may go back to an older
version; a version that was current before does not become current automatically again.
"""

import asyncio
import re
from collections.abc import Collection
from dataclasses import replace

import structlog
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import (
    UnsandboxedWorkflowRunner,
    WorkerDeploymentConfig,
    WorkflowInstance,
    WorkflowInstanceDetails,
)

DEPLOYMENT = "openkcm"
_BUILD = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_RETRY_SECONDS = 0.5
_CHECK_SECONDS = 60.0
"""The time between two checks, which find that Temporal's storage was lost."""

log = structlog.get_logger()


def deployment_config(build_id: str | None) -> WorkerDeploymentConfig | None:
    """Return the deployment version of a worker; None without Worker Versioning."""
    if build_id is None:
        return None
    version = WorkerDeploymentVersion(DEPLOYMENT, build_id)
    # All but those of PinningRunner: they last for months and change versions by patches.
    return WorkerDeploymentConfig(version, True, VersioningBehavior.AUTO_UPGRADE)  # noqa: FBT003 - its API


class PinningRunner(UnsandboxedWorkflowRunner):
    """Pins workflows of some classes to their version.

    Not by `workflow.defn`: Temporal rejects a definition with a behavior from a worker without Worker Versioning.
    """

    def __init__(self, pinned: Collection[type]) -> None:
        self._pinned = pinned

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Create the instance of a workflow, as the base class does."""
        if det.defn.cls in self._pinned:
            det = replace(det, defn=replace(det.defn, versioning_behavior=VersioningBehavior.PINNED))
        return super().create_instance(det)


async def keep_current(client: Client, build_id: str) -> None:
    """Make a new version current as soon as Temporal accepts it, until cancelled."""
    waiting = ""
    while True:
        try:
            decided = await _make_current(client, build_id)
            reason = "" if decided else "no worker of this version has polled yet"
        except RPCError as refused:
            # Not known yet, another worker was faster, or a task queue has no worker of this version yet.
            decided, reason = False, refused.message
        if reason and reason != waiting:
            log.warning("waiting", waiting_for="current version", build_id=build_id, message=reason)
        waiting = reason
        await asyncio.sleep(_CHECK_SECONDS if decided else _RETRY_SECONDS)


async def _make_current(client: Client, build_id: str) -> bool:
    """Return whether it is decided which version is current."""
    described = await client.workflow_service.describe_worker_deployment(
        DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=DEPLOYMENT)
    )
    deployment = described.worker_deployment_info
    current = deployment.routing_config.current_deployment_version.build_id
    own = [one for one in deployment.version_summaries if one.deployment_version.build_id == build_id]
    if not own:
        return False
    if own[0].HasField("first_activation_time") or (current and not _is_newer(build_id, current)):
        return True
    await client.workflow_service.set_worker_deployment_current_version(
        SetWorkerDeploymentCurrentVersionRequest(
            namespace=client.namespace,
            deployment_name=DEPLOYMENT,
            build_id=build_id,
            conflict_token=described.conflict_token,
            identity=client.identity,
        )
    )
    log.info("version is current", build_id=build_id, former=current)
    return True


def _is_newer(build_id: str, current: str) -> bool:
    """Compare two releases; one that an operator named in another way is never replaced automatically."""
    ours, theirs = _BUILD.fullmatch(build_id), _BUILD.fullmatch(current)
    return ours is not None and theirs is not None and _numbers(ours) > _numbers(theirs)


def _numbers(build: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(number) for number in build.groups())
