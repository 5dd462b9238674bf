# The operator's command, which compares the stores (openkcmctl doctor --stores). It reads versions and states of keys,
# public keys and the locks of tenants. It changes nothing and uses no key.

path "transit/keys/" {
  capabilities = ["list"]
}
path "transit/keys/+" {
  capabilities = ["read"]
}
path "tenant-locks/" {
  capabilities = ["list"]
}
path "tenant-locks/+" {
  capabilities = ["read"]
}

# Check whether its token is valid (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
