"""The operations for clients, one module for each family; `crypto_service.kmip.operation_table` lists them.

An operation gets its batch and its payload, and returns the items of the response payload.
"""
