"""What the processes may ask of all tenants at once: the part of `interfaces` that is about it. Imports no psycopg."""
