"""Pure domain: names, states, rules, messages and errors; no I/O, no clock, no randomness, no settings.

Start with `tenants.lifecycle` (the transition table), `names` (the only module that builds names) and
`keys.encryption_context` (the context that binds a ciphertext). Standard library and pydantic only. Every server
package may import it; it imports `openkcm` only.
"""
