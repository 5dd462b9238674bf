# The crypto service. It uses the platform's root keys and gets its server certificate signed. It cannot read, create,
# export or disable any key, sign anything else, or use an L2 key: that requires a tenant's identity in each call
# (policies/tenant.hcl). This identity alone can therefore not unwrap both layers of a service key.
# `update` and never `create`: an encrypt with a missing key must not create one.

path "transit/encrypt/root-*" {
  capabilities       = ["update"]
  allowed_parameters = {
    "plaintext" = []
    "context"   = []
  }
}

path "transit/decrypt/root-*" {
  capabilities       = ["update"]
  allowed_parameters = {
    "ciphertext" = []
    "context"    = []
  }
}

# The certificate of its listeners: the role restricts names, addresses and usage; a policy cannot restrict the rest.
path "pki/sign/crypto-server" {
  capabilities       = ["update"]
  allowed_parameters = {
    "csr"         = []
    "common_name" = []
    "alt_names"   = []
    "ip_sans"     = []
    "ttl"         = []
  }
}

# The lock of a tenant, before each use of its key (vault/tenant_locks.py).
path "tenant-locks/+" {
  capabilities = ["read"]
}

# Check whether its token is valid (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
