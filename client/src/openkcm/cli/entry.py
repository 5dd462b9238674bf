"""The installed command `openkcm`, which explains what is missing without its extra."""

import sys


def entry() -> None:
    """Run the command; end with a hint where `openkcm` was installed without its extra `cli`."""
    try:
        from openkcm.cli.__main__ import entry as run  # noqa: PLC0415 - it may be missing what it imports
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "openkcm":
            raise
        sys.exit(f"error: the command needs {missing.name}\nhint: pip install 'openkcm[cli]'")
    run()
