"""Fuzzing of the KMIP codec and listener with a million inputs: no crash, no hang, no memory growth."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.kmip_fuzzing.run import Account, fuzz, seeds
from tests.benchmarks.report import Check, Result

_INPUTS = 1_000_000
_DECODER_SHARE = 0.6
_SLOWEST_MS = 250.0
"""A message has up to 1 MiB and 128 batch items; here, operations that would use a thread run on the event loop too."""
_GROWN_MIB = 32.0
_INPUT_SECONDS = 5
_PROTOCOL = (
    "Two parts, both seeded with the requests of the 197 OASIS cases, in their version and in 2.1. Decoder: atheris "
    "(coverage-guided) in a separate process, which ends on an assertion, an exception other than a rejection, an "
    "input of {seconds} s or 512 MiB; decoded input must be encoded to the same bytes. Listener: the same requests "
    "with damaged bytes (a third) or changed items (the rest), split into pieces, through the real connection, "
    "dispatcher, operations and ciphers over objects in memory; an internal error in the log or an escaped exception "
    "counts as an error. The time of an input is CPU time of the loop; memory is resident memory after the last input "
    "minus that after the first fifth."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    inputs = 20_000 if quick else _INPUTS
    decoded, crashes = _decoder(int(inputs * _DECODER_SHARE))
    account = fuzz(inputs - int(inputs * _DECODER_SHARE), seed=20_261_125)
    checks = [
        Check(
            "inputs missing to a million" if not quick else "inputs missing", inputs - decoded - account.inputs, 0, ""
        ),
        Check("crashes, hangs and errors", crashes + len(account.errors), 0, ""),
        Check("slowest input of the listener", round(account.slowest_seconds * 1000, 2), _SLOWEST_MS, "ms"),
        Check("memory grown", round(account.grown, 1), _GROWN_MIB, "MiB"),
    ]
    summary = {
        "decoder": {"inputs": decoded, "crashes": crashes},
        "listener": {"inputs": account.inputs, "answered": account.answered, "errors": len(account.errors)},
        "milliseconds of an input": report.spread(account.milliseconds),
        "slowest input": account.slowest.hex()[:512],
    }
    errors = [{"error": text, "input": data.hex()} for text, data in account.errors[:100]]
    samples = {"milliseconds": account.milliseconds, "errors": errors}
    protocol = _PROTOCOL.format(seconds=_INPUT_SECONDS)
    title = "Fuzzing the KMIP listener"
    return Result("fuzz_kmip", title, quick, protocol, checks, summary, samples), _plot(account)


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
                "tests.benchmarks.kmip_fuzzing.decoder_target",
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


def _plot(account: Account) -> Figure:
    figure, axes = report.canvas()
    axes.hist([max(ms, 0.001) for ms in account.milliseconds], bins=80, color=report.BLUE, log=True)
    axes.set_xscale("log")
    axes.axvline(account.slowest_seconds * 1000, color=report.RED, linestyle="--", label="slowest of all")
    axes.set_xlabel("CPU milliseconds of an input")
    axes.set_ylabel("inputs, sampled")
    axes.set_title("Cost of a hostile KMIP message")
    axes.legend(frameon=False)
    return figure
