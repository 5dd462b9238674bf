"""KMIP 1.0 to 1.4 (OASIS): codec, attributes and objects, operations, and the server loop.

`items` is the decoded form everything works on, `ttlv` its bytes, `tags` and `enums` its numbers. `server` reads and
answers messages, `dispatch` runs a batch, `objects` keeps managed objects, `operations/` does what a client asks.
"""
