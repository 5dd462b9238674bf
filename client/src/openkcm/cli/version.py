"""The installed version of OpenKCM."""


def installed_version(distribution: str = "openkcm") -> str:
    """Return the version of an installed distribution; "unknown" for a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow, and few commands need it

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
