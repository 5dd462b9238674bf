"""What a tenant is, decided without I/O: names, states, messages, context, errors, audit vocabulary.

Start with `lifecycle` (the one transition table), then `ids` (the only place names are built) and `binding` (the
context that ties a ciphertext to its place). Everything here is pure: standard library and pydantic, no clock, no
randomness, no settings. Every other package may import it; it imports none of them.
"""
