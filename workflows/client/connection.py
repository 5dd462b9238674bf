"""Connections to Temporal: by address, or by Temporal's configuration files and environment."""

from functools import cache
from typing import Literal, cast

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import LoggingConfig, LoggingFormat, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import GrpcCompression

from core.errors.platform import SettingsInvalid, TemporalUnavailable
from core.errors.tls import TlsFault, with_tls_fault
from core.tracing.spans import Tracer
from workflows.runtime.tracing import TraceInterceptor

_TLS_FAULTS = {
    "UnknownIssuer": TlsFault.UNKNOWN_CA,
    "BadSignature": TlsFault.UNKNOWN_CA,
    "CaUsedAsEndEntity": TlsFault.UNKNOWN_CA,
    "NotValidForName": TlsFault.WRONG_NAME,
    "InvalidCertificate(Expired": TlsFault.EXPIRED,
    "InvalidCertificate(NotValidYet": TlsFault.NOT_YET_VALID,
    "InvalidContentType": TlsFault.NO_TLS,
    "CertificateRequired": TlsFault.CLIENT_CERTIFICATE,
    "AlertReceived(UnknownCA)": TlsFault.CLIENT_CERTIFICATE,
    "AlertReceived(BadCertificate)": TlsFault.CLIENT_CERTIFICATE,
    'call error after connection: Status { code: Unknown, message: "transport error"': TlsFault.ENDS_AT_ONCE,
    'call error after connection: Status { code: Cancelled, message: "operation was canceled"': TlsFault.ENDS_AT_ONCE,
}
"""Texts of rustls in the errors of Temporal's core."""
_THIS_MACHINE = ("127.", "localhost:", "[::1]:")


LogForm = Literal["console", "json"] | None


def core_logging(form: LogForm) -> LoggingConfig | None:
    """Return the logging options of Temporal's core for this form of logs; None for a process without logs.

    The core writes to standard output itself, in color by default. A command writes its result there, so its core must
    not log at all: the error of the command states what failed.
    """
    if form is None:
        return None
    core_filter = TelemetryFilter(core_level="WARN", other_level="ERROR")
    return LoggingConfig(filter=core_filter, format=LoggingFormat.JSON if form == "json" else None)


@cache
def client_runtime(form: LogForm) -> Runtime:
    """Return the runtime of this process's clients whose core logs in this form; each has dedicated threads."""
    return Runtime(telemetry=TelemetryConfig(logging=core_logging(form)))


async def connect_client(address: str | None, logs: LogForm = None, tracer: Tracer | None = None) -> Client:
    """Return a lazy client without a payload codec, for processes other than the worker."""
    return await Client.connect(
        **connection(address),
        lazy=True,
        data_converter=pydantic_data_converter,
        runtime=client_runtime(logs),
        interceptors=[] if tracer is None else [TraceInterceptor(tracer)],
    )


def unavailable(failed: BaseException) -> TemporalUnavailable:
    """Return the error for an error of Temporal's client, with the cause of a failed TLS handshake."""
    return with_tls_fault(TemporalUnavailable, "the workflow service", str(failed), _TLS_FAULTS)


class Connection(ClientConnectConfig, total=False):
    """The arguments of `Client.connect`."""

    grpc_compression: GrpcCompression


def connection(address: str | None) -> Connection:
    """Return the connection options: for `address`, or from Temporal's files and environment when it is None.

    Raises:
        SettingsInvalid: Temporal's configuration names a missing profile or file.
    """
    if address is not None:
        config = Connection(target_host=address)
    else:
        try:
            config = cast("Connection", ClientConfig.load_client_connect_config())
        except RuntimeError as unreadable:
            raise SettingsInvalid(f"temporal configuration: {unreadable}", "see TEMPORAL_PROFILE") from None
        config.setdefault("target_host", "127.0.0.1:7233")
    if config["target_host"].startswith(_THIS_MACHINE):
        # Compression helps on a network; on one machine it only costs a tenth of the server's CPU.
        config["grpc_compression"] = GrpcCompression.NONE
    return config
