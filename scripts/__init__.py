"""Tools that build and check the repository; nothing here is installed or runs in production.

`setup.sh` creates .venv, `lock.sh` writes the hash-locked requirements, `docs` generates documents from code,
`architecture` finds violations of the rules for sources, `words` finds words that the language guide excludes. The make
targets call them.
"""
