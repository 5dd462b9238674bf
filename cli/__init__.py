"""The command `openkcmctl`: the contract for operators and scripts (docs: the table in `openkcmctl --help`).

`__main__` names the commands and their modules. Each module has a `register(app)` and may import slowly, because only
that of the called command is loaded. `openkcm.cli.application` maps errors to exit statuses.
"""
