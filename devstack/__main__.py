"""`python -m devstack`: the embedded servers and processes of a development installation."""

from config.settings import command_log_file
from openkcm.cli.application import Application

_APPLICATION = Application(
    program="python -m devstack",
    summary="Run the embedded stack of a development installation.",
    distribution="openkcm-tenant-controller",
    modules={
        "devstack.cli": ("up", "down", "status", "doctor"),
        "devstack.marketplace_simulator.enable": ("enable",),
    },
    log_file=command_log_file,
)
main, entry = _APPLICATION.main, _APPLICATION.entry

if __name__ == "__main__":
    entry()
