# The codec server, which lets the Temporal UI show payloads: it opens the wrapped data keys that lie beside them and
# does nothing else. It cannot make a data key, so it cannot write payloads either.

path "transit/decrypt/payload*" {
  capabilities = ["update"]
}

# Ask whether its own token still lives (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
