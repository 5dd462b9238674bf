"""Encryption of MongoDB fields inside pymongo 4.

driver             sends rewritten commands and decrypts replies
pymongo_internals  private properties of clients
sessions           the state of this process: fields, keys, cursors
catalog            the protected fields
rewrite/           commands, filters, updates, pipelines and projections
replies            the decryption of documents
encryption         the format of a value in a document
key_store          the wrapped column keys in the database
errors             the errors of the application
"""
