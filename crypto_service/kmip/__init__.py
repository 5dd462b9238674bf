"""KMIP 1.0 to 1.4, 2.0 and 2.1 (OASIS): codec, attributes and objects, operations, and the server loop.

`codec` has the decoded form of messages (`fields`), their bytes (`ttlv`), their numbers (`tags`, `enums`) and the
table from errors to result reasons (`errors`). `server` reads and answers messages, `dispatch` runs a batch,
`operation_table` lists the operations in `operations`. `objects` stores managed objects. `version_2` translates
requests and responses of 2.x.
"""
