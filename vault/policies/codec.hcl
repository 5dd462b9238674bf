# The codec server, which decodes payloads for the Temporal UI: it only unwraps the data keys in their metadata. It
# cannot create a data key, so it cannot encrypt payloads.

path "transit/decrypt/payload*" {
  capabilities = ["update"]
}

# Check whether its token is valid (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
