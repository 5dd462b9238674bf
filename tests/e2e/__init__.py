"""Stories on the whole running product; a package for the scope of its fixtures (conftest.py)."""
