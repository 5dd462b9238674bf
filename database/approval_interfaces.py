"""Requests that wait for a second person: the part of `interfaces` that is about them. Imports no psycopg."""
