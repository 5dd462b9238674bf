"""Schema of the database: migrations, their runner and the schema rules."""
