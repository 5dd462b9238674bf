"""Schema of the database: migrations, their runner and their lint."""
