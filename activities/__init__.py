"""Activities: one external effect each, idempotent.

The constructor of each class takes the interfaces that the class needs, such as the database or keys. This package uses
no hvac, no psycopg and no settings. An activity has the name of its step. Its idempotency key is the operation id and
the step, never a random number: a retry of a killed step finds the first result and adds nothing.
"""
