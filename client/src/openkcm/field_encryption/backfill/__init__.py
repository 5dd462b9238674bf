"""Rows from before the protection, encrypted where they are: `openkcm backfill`.

run          goes over the tables
patience     the connection, and waiting for whatever is away
table        the walks over one table: count, change, read back
queries      the statements of these walks
at_hand      seals and opens values with keys that were asked for before a row is locked
pace         how fast
preflight    what is refused beforehand, and what should be known
progress     how far it is; telling says it to OpenKCM

Its state is the data itself: a value that is no ciphertext is left to do, and nothing else is. So nothing can be lost
or done twice, however it ends, and a database that was restored or written to meanwhile is no special case.
"""
