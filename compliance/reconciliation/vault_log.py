"""Reader of the audit log of OpenBao or Vault from its file device: one JSON object a line, two lines a request.

It reads rotated and compressed files in sequence as a stream, so the size of the log does not matter. It keeps only the
fields that the reconciliation needs (`model`): no hidden value, token, key or ciphertext. It also reports faults of the
log: a request without a response and vice versa, an unreadable or repeated line, and time that goes backwards. An
unknown request below transit/ or pki/ becomes an event too.
"""

import glob
import gzip
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from compliance.reconciliation.ledger import ServerLog
from compliance.reconciliation.model import Discrepancy, DiscrepancyKind, Severity
from compliance.reconciliation.vault_events import events_of
from openkcm.errors import FileRefused

_DISORDER = timedelta(seconds=2)
"""Maximum time difference of lines in wrong order: the server writes them from many threads."""
_UNDER_WAY = timedelta(seconds=10)
"""Maximum duration of a request at the beginning and end of a log, which may contain only one of its two lines."""
_TIME = b'{"time":"'
_STARTED = "sys/audit/test"
"""Request that a server logs at its start, without a response."""
_INITIALIZATION = "initialize["
"""Prefix of the ids of requests during the initialization of a server; the last of them revokes its token."""
_REMEMBERED = 100_000
"""Number of newest requests that are remembered to detect repeated lines."""
_MOST_REPORTED = 20
"""Reported lines for each kind of fault in a file; of further ones only the number is reported."""


def read_log(
    files: Sequence[Path], since: datetime | None = None, progress: Callable[[int], None] = lambda _bytes: None
) -> ServerLog:
    """Return the content of the files; lines before `since` only determine the begin of the log.

    The files of one folder are the log of one node, in this order. Each node logs the requests that it answered, so
    together the logs of all nodes contain each request once. `progress` is called with the number of read bytes.

    Raises:
        FileRefused: a file cannot be read, or is named twice.
    """
    nodes: dict[Path, list[Path]] = {}
    for path in files:
        node = nodes.setdefault(path.resolve().parent, [])
        if path.resolve() in node:
            raise FileRefused(f"{path} is named twice", "name each file of the key server's audit logs once")
        node.append(path.resolve())
    limit = "" if since is None else since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return _merge([_read_node(node, limit, progress) for node in nodes.values()])


def _read_node(files: Sequence[Path], limit: str, progress: Callable[[int], None]) -> ServerLog:
    reader = _Reader(limit)
    for number, path in enumerate(files):
        try:
            with _open_file(path) as file:
                reader.read(path, file, progress, is_last=number == len(files) - 1)
        except (OSError, EOFError) as failed:
            reason = getattr(failed, "strerror", None) or "it is truncated"
            raise FileRefused(f"{path} cannot be read: {reason}", "name the key server's audit log") from None
    return reader.finished()


def _merge(logs: Sequence[ServerLog]) -> ServerLog:
    """Return one log of several nodes, its events in the order of time."""
    if len(logs) == 1:
        return logs[0]
    merged = ServerLog(
        begin=min((log.begin for log in logs if log.begin is not None), default=None),
        end=max((log.end for log in logs if log.end is not None), default=None),
        lines=sum(log.lines for log in logs),
    )
    for log in logs:
        merged.faults += log.faults
        for tenant_id, events in log.events.items():
            merged.events[tenant_id] += events
    for events in merged.events.values():
        events.sort(key=lambda event: event.at)
    return merged


def files_of(*logs: Path) -> list[Path]:
    """Return each log and its rotated files, whose names start with the name of the log, the oldest first."""
    return [file for path in logs for file in _rotated(path)]


def _rotated(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.name)}*"), key=lambda file: (file.stat().st_mtime, file != path))


def _open_file(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


class _Reader:
    def __init__(self, since: str) -> None:
        """Initialize with the begin as in the log, without fractions of a second; empty for no limit."""
        self._since = since.encode()
        self._log = ServerLog()
        self._seen_from: datetime | None = None
        self._asked: dict[str, tuple[datetime, str]] = {}
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._reported: defaultdict[DiscrepancyKind, int] = defaultdict(int)

    def read(self, path: Path, file: Iterable[bytes], progress: Callable[[int], None], *, is_last: bool) -> None:
        self._reported.clear()
        for number, line in enumerate(file, start=1):
            progress(len(line))
            if not line.endswith(b"\n") and is_last:
                return  # still being written
            if self._is_earlier(line):
                continue
            self._line(f"{path.name}:{number}", line)
        for kind, times in self._reported.items():
            if times > _MOST_REPORTED:
                more = f"{path.name}: the same {times - _MOST_REPORTED} times more"
                self._log.faults.append(Discrepancy(kind, Severity.DIFFERENCE, None, more))

    def finished(self) -> ServerLog:
        end = self._log.end
        for request_id, (at, path) in self._asked.items():
            if end is not None and at < end - _UNDER_WAY:
                self._unanswered(request_id, at, path)
        return self._log

    def _is_earlier(self, line: bytes) -> bool:
        """Return whether a line is before the limit, by its first field; the first line sets the begin of the log."""
        if not line.startswith(_TIME) or line[len(_TIME) : len(_TIME) + len(self._since)] >= self._since:
            return False
        if self._log.begin is None:
            with suppress(ValueError):
                self._log.begin = datetime.fromisoformat(line[len(_TIME) :].partition(b'"')[0].decode())
        return True

    def _line(self, place: str, line: bytes) -> None:
        self._log.lines += 1
        try:
            entry = orjson.loads(line)
            at = datetime.fromisoformat(entry["time"])
            kind, request = entry["type"], entry["request"]
            request_id, path = str(request["id"]), str(request.get("path", ""))
        except (ValueError, KeyError, TypeError):
            # It has no time; that of the entries before it shows what damaged the log.
            self._fault(DiscrepancyKind.UNREADABLE, self._log.end, "an invalid line", place)
            return
        self._time(place, at)
        if kind == "request":
            self._request(place, at, request_id, path)
        elif kind == "response":
            self._response(place, at, request_id, entry)
        else:
            self._fault(DiscrepancyKind.UNREADABLE, at, "an entry that is neither request nor response", place)

    def _time(self, place: str, at: datetime) -> None:
        log = self._log
        self._seen_from = self._seen_from or at
        log.begin = at if log.begin is None else log.begin
        if log.end is not None and at < log.end - _DISORDER:
            self._fault(DiscrepancyKind.BACKWARDS, at, f"an entry {log.end - at} older than one before it", place)
        log.end = at if log.end is None else max(log.end, at)

    def _request(self, place: str, at: datetime, request_id: str, path: str) -> None:
        if path == _STARTED:
            # Requests that were running when the former server process ended have no response.
            for cut, (when, what) in self._asked.items():
                self._unanswered(cut, when, what, Severity.NOTICE)
            self._asked.clear()
        elif request_id in self._asked or request_id in self._answered:
            self._fault(DiscrepancyKind.REPEATED, at, "a repeated request", place, request_id)
        elif not (request_id.startswith(_INITIALIZATION) and path == "auth/token/revoke-self"):
            self._asked[request_id] = at, path

    def _response(self, place: str, at: datetime, request_id: str, entry: dict[str, Any]) -> None:
        if self._asked.pop(request_id, None) is None:
            begin = self._seen_from
            if request_id in self._answered:
                self._fault(DiscrepancyKind.REPEATED, at, "a repeated response", place, request_id)
                return
            if begin is not None and at > begin + _UNDER_WAY:
                what = f"the response to {entry['request'].get('path', '')}, whose request is missing"
                self._fault(DiscrepancyKind.UNASKED, at, what, place, request_id)
        self._answered[request_id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        for event in events_of(entry, at):
            self._log.events[event.tenant_id].append(event)

    def _unanswered(self, request_id: str, at: datetime, path: str, severity: Severity = Severity.DIFFERENCE) -> None:
        what = f"the request for {path} has no response"
        if severity is Severity.NOTICE:
            what += ": the server ended meanwhile"
        self._log.faults.append(Discrepancy(DiscrepancyKind.UNANSWERED, severity, at, what, reference=request_id))

    def _fault(self, kind: DiscrepancyKind, at: datetime | None, what: str, place: str, request_id: str = "") -> None:
        self._reported[kind] += 1
        if self._reported[kind] <= _MOST_REPORTED:
            self._log.faults.append(
                Discrepancy(kind, Severity.DIFFERENCE, at, f"{place}: {what}", reference=request_id)
            )
