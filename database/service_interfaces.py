"""Connected services and what they keep with us: the part of `interfaces` that is about them. Imports no psycopg."""
