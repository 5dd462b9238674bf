"""What a client can ask, one file for each family; `crypto_service.kmip.operation_table` lists them all.

An operation gets the batch it belongs to and its payload, and returns the items of the answer's payload.
"""
