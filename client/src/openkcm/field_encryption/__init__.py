"""Encryption inside a Python application that knows nothing of it: `openkcm run -- python app.py`.

    startup/        the folder that is put on PYTHONPATH; its sitecustomize brings the hook into the program
    install         waits for a driver to be imported and puts the hook into it
    surroundings    what `openkcm run` told the program
    crypto_service  the crypto service, asked as the service that the program is
    protection      which fields: as OpenKCM keeps it for the service
    values          the form of a protected value
    keys            column keys and how long they are kept; key_service opens them
    watching        hears at once that the crypto service may refuse them
    uses            what is encrypted and what it costs, told to the crypto service
    postgresql/     psycopg 3
    mongodb/        pymongo 4

It runs at the customer: of the platform it knows the crypto service's client alone.
"""
