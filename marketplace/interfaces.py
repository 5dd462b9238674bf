"""Dependencies on other components: the workflow client and the database."""
