"""The version of OpenKCM that is installed."""

from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTION = "openkcm-tenant-controller"


def installed_version() -> str:
    """Return the version of the installed distribution; "unknown" for a source tree that is not installed."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
