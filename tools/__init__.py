"""What builds and checks the repository itself; nothing here is installed or runs in production.

`setup.sh` makes .venv, `lock.sh` writes the hash-locked requirements, `docs` writes the documents that are generated
from code, `architecture` finds breaches of the rules for sources, `words` the words that the
language guide excludes. The make targets call them.
"""
