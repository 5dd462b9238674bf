"""Standard output with Unix conventions: closed pipes, any encoding, full disks."""

import io
import os
import signal
import sys
from typing import Any, NoReturn, TextIO


class OutputLost(BaseException):
    """Standard output cannot be written. Not an Exception: a command treats it as an interrupt, not as an error.

    As an OSError it would become an error of the command, which for a verification is a negative result.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as failed:
            raise OutputLost(failed) from None


def prepare() -> None:
    """Replace standard output so that characters outside its encoding are escaped instead of raising an error.

    A process that was started with closed standard output or error writes to the null device instead.
    """
    sys.stdout, sys.stderr = sys.stdout or _nothing(), sys.stderr or _nothing()
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        raw = _Output(out.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(
            raw if out.write_through else io.BufferedWriter(raw),
            encoding=out.encoding,
            errors="backslashreplace",
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )


def end_without_output(lost: OutputLost, status: int) -> NoReturn:
    """End as `cat` does: by SIGPIPE if the reader has closed the pipe, else with an error and `status`."""
    if isinstance(lost.cause, BrokenPipeError):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.stderr.write(f"error output_failed: standard output cannot be written: {lost.cause.strerror}\n")
    sys.stderr.flush()
    os._exit(status)


def _nothing() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - open for the lifetime of the process
