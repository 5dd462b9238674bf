"""The `openkcm` command: the contract for operators and scripts (docs: the table in `openkcm --help`).

`__main__` finds the command and turns every error into an exit status, `output` is the only place that prints. Each
other module holds a few commands and a `register(app)`; its row in `__main__._MODULES` makes it known. Imports inside
a module may be heavy: only the module of the command that was called is imported.
"""
