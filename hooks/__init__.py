"""Encryption inside a Python application that knows nothing of it: `openkcm run -- python app.py`.

    startup/        the folder that is put on PYTHONPATH; its sitecustomize brings the hook into the program
    install         waits for `psycopg` to be imported and puts the hook into it
    cursors         where statements leave and rows arrive
    databases       what is known of each database and connection
    protection      which columns: protection.json
    catalogue       which columns: comments; and their tables (catalogue_query asks)
    parser          PostgreSQL's own parser
    statements      text → plan, by analysis, scopes, reading, conditions, writing; plans is what comes out
    rewriting       carrying a plan out
    rows            rows on the way back
    values          the form of a protected value
    keys            column keys and how long they are kept; key_service opens them, key_store keeps them wrapped
    errors          what the application meets

It runs at the customer: of the platform it knows the crypto service's client alone.
"""
