"""Encryption of 1 KiB: the crypto service over mTLS beside OpenBao Transit, both with audit, in one run."""

import base64
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core.keys.encryption_context import EncryptionContext, Purpose
from tests.benchmarks import report
from tests.benchmarks.crypto_api.bare_tls import bare_server
from tests.benchmarks.crypto_api.openbao_peer import KEY, Peer, openbao_server
from tests.benchmarks.harness.closed_loop import Target, kept, median_rounds
from tests.benchmarks.harness.service_fixture import connected_stack
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result

_TENANT = "bench-corp-1"
_BYTES = 1024
_CONCURRENCY = (1, 8, 32)
_LEAST_RATIO = {1: 3.0, 8: 4.0, 32: 4.0}
_ABOVE_BARE_MS = 0.04
_P99_MS = 1.0
_ROUNDS = 5
_SECONDS = 4.0
_PROTOCOL = (
    "One stack, one tenant, one service. For each concurrency the sides take turns, {rounds} rounds of {seconds:g} "
    "s each over kept connections, driven by the same generator (tests/benchmarks/harness/generator.c, one thread for"
    " each processor) on the same machine; the median round of each side counts. Ours: POST /v1/encrypt over mTLS "
    "with the write-ahead log, {processes} processes. Theirs: POST transit/encrypt with a derivation context over "
    "TLS, audit file on, storage in memory and a root token, which needs no policy check. Both get {bytes} bytes, "
    "base64 in JSON. At concurrency 1 a third side takes turns too: one process on the same event loop that responds "
    "over mTLS without any work."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds, seconds = (1, 1.0) if quick else (_ROUNDS, _SECONDS)
    plaintext = base64.b64encode(os.urandom(_BYTES)).decode()
    samples: dict[str, list[float]] = {}
    summary: dict[str, Any] = {}
    checks = []
    with (
        connected_stack(_TENANT, "microservice") as (stack, folder),
        tempfile.TemporaryDirectory(prefix="openkcm-openbao-") as place,
        openbao_server(Path(place)) as peer,
        tempfile.TemporaryDirectory(prefix="openkcm-bare-") as floor,
    ):
        sides = {"ours": _ours(stack, folder, plaintext), "transit": _transit(peer, plaintext)}
        for connections in _CONCURRENCY:
            measure = kept(connections)
            if connections == 1:
                with bare_server(Path(floor), sides["ours"].request) as bare:
                    middle = median_rounds(measure, {**sides, "bare TLS server": bare}, rounds, seconds)
            else:
                middle = median_rounds(measure, sides, rounds, seconds)
            for side, load in middle.items():
                summary[f"{side}, concurrency {connections}"] = load.summary()
                samples[f"{side} {connections}"] = [
                    round(ms, 3) for ms in load.latencies[:: max(1, len(load.latencies) // 500)]
                ]
            ratio = middle["ours"].rate / middle["transit"].rate
            summary[f"times Transit, concurrency {connections}"] = round(ratio, 2)
            checks.append(
                Check(
                    f"Transit's requests per second over ours at concurrency {connections}",
                    round(1 / ratio, 3),
                    round(1 / _LEAST_RATIO[connections], 3),
                    "",
                )
            )
            if connections == 1:
                p50, p99 = (report.percentile(middle["ours"].latencies, p) for p in (50, 99))
                above = p50 - report.percentile(middle["bare TLS server"].latencies, 50)
                checks += [
                    Check("p50 at concurrency 1 above that of the bare server", round(above, 3), _ABOVE_BARE_MS, "ms"),
                    Check("p99 at concurrency 1", round(p99, 3), _P99_MS, "ms"),
                ]
        processes = os.cpu_count() or 1
    result = Result(
        name="crypto_https",
        title="Encrypting 1 KiB: the crypto service and OpenBao Transit",
        quick=quick,
        protocol=_PROTOCOL.format(rounds=rounds, seconds=seconds, processes=processes, bytes=_BYTES),
        checks=checks,
        summary=summary,
        samples=samples,
    )
    return result, _plot(summary)


def _ours(stack: Stack, folder: Path, plaintext: str) -> Target:
    body = json.dumps({"plaintext": plaintext, "resource": "bench/record/1"})
    client = folder / "client.pem", folder / "client.key"
    request = _post("localhost", "/v1/encrypt", body)
    return Target(stack.settings.crypto_https_port, request, "http", folder / "ca.pem", client)


def _transit(peer: Peer, plaintext: str) -> Target:
    place = EncryptionContext(_TENANT, KEY, "bench", Purpose.DATA, "bench/record/1").encode()
    body = json.dumps({"plaintext": plaintext, "context": base64.b64encode(place).decode()})
    request = _post("127.0.0.1", f"/v1/transit/encrypt/{KEY}", body, f"X-Vault-Token: {peer.token}\r\n")
    return Target(peer.port, request, "http", peer.ca, server_name="127.0.0.1")


def _post(host: str, path: str, body: str, headers: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _plot(summary: dict[str, Any]) -> Figure:
    figure, axes = report.canvas()
    places = np.arange(len(_CONCURRENCY))
    for shift, side, colour in ((-0.2, "ours", report.BLUE), (0.2, "transit", report.ORANGE)):
        rates = [summary[f"{side}, concurrency {n}"]["requests/s"] for n in _CONCURRENCY]
        bars = axes.bar(
            places + shift, rates, 0.38, color=colour, label={"ours": "crypto service, mTLS"}.get(side, "Transit, TLS")
        )
        axes.bar_label(bars, fmt="{:,.0f}")
    axes.set_xticks(places, [f"concurrency {n}" for n in _CONCURRENCY])
    axes.set(title="Encrypting 1 KiB", ylabel="requests per second")
    axes.legend(loc="upper left")
    return figure
