"""The file that says how far a receiver has acknowledged a stream: one process at a time, whole at every moment."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.errors.compliance import ForwardingBusy, ForwardingStateRefused
from openkcm.errors import FileRefused
from tenancy.forwarding import Form, ForwardedState


@dataclass(frozen=True, slots=True)
class StateFile:
    path: Path

    def read(self, tenant_id: str, to: str, form: Form) -> ForwardedState:
        """Return how far it is; at the beginning where there is no file yet.

        Raises: ForwardingStateRefused when the file is damaged or of another tenant, receiver or form: to begin anew
            there by itself would send everything twice, and to go on would leave out what that receiver never got.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ForwardedState(tenant_id, to, form, 0, "")
        except (OSError, UnicodeDecodeError):
            raise ForwardingStateRefused(f"{self.path} cannot be read") from None
        state = ForwardedState.read(text)
        if state is None or (state.tenant_id, state.to, state.form) != (tenant_id, to, form):
            raise ForwardingStateRefused
        return state

    def write(self, state: ForwardedState) -> None:
        """Put another state in the file's place, on the disk before this returns; raises FileRefused."""
        draft = self.path.with_name(f".{self.path.name}.new")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(state.text())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as failed:
            raise FileRefused(f"{self.path} cannot be written: {failed.strerror}", "free some space") from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for this process; the kernel lets go of it however the process ends. Raises ForwardingBusy."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as failed:
            raise FileRefused(f"{self.path} cannot be made: {failed.strerror}", "choose another --state") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ForwardingBusy from None
            yield
        finally:
            os.close(lock)
