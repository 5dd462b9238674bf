"""The `openkcm` command: the contract for operators and scripts (docs: the table in `openkcm --help`).

`__main__` dispatches the command and maps errors to exit statuses; only `output` prints. Each other module holds a few
commands and a `register(app)`, and has a row in `__main__._MODULES`. Imports in a module may be slow, because only the
module of the called command is imported.
"""
