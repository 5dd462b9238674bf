"""Fuzzing of the KMIP codec and of both listeners: no crash, no hang, no memory growth."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.fuzzing.https import fuzz_https
from tests.benchmarks.fuzzing.run import Account, fuzz, seeds
from tests.benchmarks.report import Check, Result

_INPUTS = 10_000_000
_DECODER_SHARE, _HTTPS_SHARE = 0.4, 0.3
_SEED = 20_261_125
_PROCESSES = 2
_SLOWEST_MS = 250.0
"""A message has up to 1 MiB and 128 batch items; here, operations that would use a thread run on the event loop too."""
_GROWN_MIB = 32.0
_INPUT_SECONDS = 5
_PROTOCOL = (
    "Three parts, two at a time, each in a process. Decoder: atheris (coverage-guided), seeded with the requests of "
    "the 197 OASIS cases, in their version and in 2.1, which ends on an assertion, an exception other than a "
    "rejection, an input of {seconds} s or 512 MiB; decoded input must be encoded to the same bytes. KMIP listener: "
    "the same requests with damaged bytes (a third) or changed items (the rest), split into pieces, through the real "
    "connection, dispatcher, operations and ciphers over objects in memory. HTTPS listener: a request of every "
    "endpoint with damaged bytes (a third) or a changed document, through the real connection, parser, routes and "
    "ciphers. An internal error in the log, a response of class 5xx or an escaped exception counts as an error. The "
    "time of an input is CPU time of the loop; memory is resident memory after the last input minus that after the "
    "first fifth."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    inputs = 20_000 if quick else _INPUTS
    of_decoder, of_https = int(inputs * _DECODER_SHARE), int(inputs * _HTTPS_SHARE)
    with ProcessPoolExecutor(_PROCESSES) as processes:
        kmip = processes.submit(fuzz, inputs - of_decoder - of_https, _SEED)
        decoder = processes.submit(_decoder, of_decoder)
        https = processes.submit(fuzz_https, of_https, _SEED)
    decoded, crashes = decoder.result()
    listeners = {"HTTPS": https.result(), "KMIP": kmip.result()}
    sent = decoded + sum(account.inputs for account in listeners.values())
    errors = [(name, text, data) for name, account in listeners.items() for text, data in account.errors]
    slowest = max(account.slowest_seconds for account in listeners.values())
    checks = [
        Check(f"inputs missing to {inputs:,}", inputs - sent, 0, ""),
        Check("crashes, hangs and errors", crashes + len(errors), 0, ""),
        Check("slowest input of a listener", round(slowest * 1000, 2), _SLOWEST_MS, "ms"),
        Check("memory grown", round(max(account.grown for account in listeners.values()), 1), _GROWN_MIB, "MiB"),
    ]
    summary: dict[str, Any] = {"seed": _SEED, "decoder": {"inputs": decoded, "crashes": crashes}}
    for name, account in listeners.items():
        counts = {"inputs": account.inputs, "answered": account.answered, "errors": len(account.errors)}
        summary |= {
            f"{name} listener": counts,
            f"{name}, milliseconds of an input": report.spread(account.milliseconds),
            f"{name}, slowest input": account.slowest.hex()[:512],
        }
    samples = {
        "milliseconds": {name: account.milliseconds for name, account in listeners.items()},
        "errors": [{"listener": name, "error": text, "input": data.hex()} for name, text, data in errors[:100]],
    }
    protocol = _PROTOCOL.format(seconds=_INPUT_SECONDS)
    title = "Fuzzing the KMIP and HTTPS listeners"
    return Result("fuzz", title, quick, protocol, checks, summary, samples), _plot(listeners)


def _decoder(runs: int) -> tuple[int, int]:
    """Return the number of inputs of the decoder, and of those that broke it."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, artifacts = Path(folder) / "corpus", Path(folder) / "artifacts"
        corpus.mkdir()
        artifacts.mkdir()
        for number, data in enumerate(seeds(["0b9b1c4e-6a1f-4b39-9a70-3f2f8d8b7c11"])):
            (corpus / str(number)).write_bytes(data)
        limits = [f"-runs={runs}", "-max_len=4096", f"-timeout={_INPUT_SECONDS}", "-rss_limit_mb=512"]
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.fuzzing.decoder_target",
                str(corpus),
                *limits,
                f"-artifact_prefix={artifacts}/",
            ],
            cwd=report.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        done = re.search(r"Done (\d+) runs", ended.stderr)
        broken = len(list(artifacts.iterdir())) or (1 if ended.returncode else 0)
        if broken:
            sys.stderr.write(ended.stderr[-4000:])
        return int(done[1]) if done else 0, broken


def _plot(listeners: Mapping[str, Account]) -> Figure:
    figure, axes = report.canvas()
    for (name, account), color in zip(listeners.items(), (report.ORANGE, report.BLUE), strict=True):
        taken = [max(ms, 0.001) for ms in account.milliseconds]
        axes.hist(taken, bins=80, color=color, log=True, alpha=0.6, label=name)
    axes.set_xscale("log")
    slowest = max(account.slowest_seconds for account in listeners.values())
    axes.axvline(slowest * 1000, color=report.RED, linestyle="--", label="slowest of all")
    axes.set_xlabel("CPU milliseconds of an input")
    axes.set_ylabel("inputs, sampled")
    axes.set_title("Cost of a hostile message")
    axes.legend(frameon=False)
    return figure
