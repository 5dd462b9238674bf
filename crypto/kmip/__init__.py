"""KMIP 1.0 to 1.4 (OASIS): codec, attributes and objects, operations, and the server loop.

`items` is the decoded form everything works on, `ttlv` its bytes, `tags` and `enums` its numbers. `server` reads and
answers messages, `dispatch` runs a batch, `served` lists the operations in `operations/`. `objects` keeps managed
objects; `managed` is one of them, `states` its life, `attributes` what is said of it and `material` what it holds.
`refusals` is the one table from errors to result reasons.
"""
