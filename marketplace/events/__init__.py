"""Events of the marketplace: signature, parsing, acceptance, relay to workflows."""
