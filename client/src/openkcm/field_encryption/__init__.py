"""Encryption inside an unchanged Python application: `openkcm run -- python app.py`.

    bootstrap/        the folder on PYTHONPATH whose sitecustomize loads the encryption into the program
    import_hook       waits for the import of a driver and installs the encryption in it
    environment       the settings that `openkcm run` passes to the program
    service_client    the crypto service, called with the service's certificate; notices revocations
    protected_fields  the protected fields of the service
    value_format      the format of an encrypted value
    key_cache         column keys and their lifetime
    usage             reports of encrypted values and their cost to the crypto service
    postgresql/       psycopg 3
    mongodb/          pymongo 4
    backfill/         encryption of values that were stored earlier

It runs at the customer and depends on nothing of the platform but the crypto service's client.
"""
