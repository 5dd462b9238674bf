"""Fields of MongoDB's documents, encrypted inside pymongo 4.

install         puts the hook into the driver
driver          where commands leave and replies arrive
clients         what a client does not tell in public
databases       what is known in this process: fields, keys, cursors
catalogue       which fields
commands        command → what is sent, by filters, updates, pipelines and projections; requests is what they share
replies         documents on the way back
sealing         the form of a value in a document
counting        what a command encrypted and how long that took
key_store       keeps the wrapped column keys beside the data
errors          what the application meets
"""
