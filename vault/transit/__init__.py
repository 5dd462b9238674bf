"""Transit keys by purpose: tenant keys, root keys, payload keys, audit signatures."""
