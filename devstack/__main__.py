"""`python -m devstack`: the embedded servers and processes of a development installation."""

from config.settings import command_log_file
from openkcm.cli.application import Application

APPLICATION = Application(
    program="python -m devstack",
    summary="Run the embedded stack of a development installation.",
    distribution="openkcm-tenant-controller",
    modules={
        "devstack.cli": {
            "up": "Start all components that do not run and wait until they are ready.",
            "down": "Stop all components of the embedded stack.",
            "status": "Show the state and addresses of all components; exit with 1 unless all work.",
            "doctor": "Check this machine, the settings and the servers, and report problems with their remedy.",
        },
        "devstack.marketplace_simulator.enable": {
            "enable": "Enable OpenKCM for an account, as a click in the marketplace does."
        },
    },
    log_file=command_log_file,
)
main, entry = APPLICATION.main, APPLICATION.entry

if __name__ == "__main__":
    entry()
