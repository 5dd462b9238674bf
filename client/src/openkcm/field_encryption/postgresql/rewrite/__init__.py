"""Rewriting of SQL statements: queries, conditions, modifying statements."""
