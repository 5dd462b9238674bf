"""The installed version of OpenKCM."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(distribution: str = "openkcm") -> str:
    """Return the version of an installed distribution; "unknown" for a source tree that is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
