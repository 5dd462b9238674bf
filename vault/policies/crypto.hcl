# The crypto service. It opens what the platform's root keys wrapped and has its own server certificate signed; it cannot
# read, make, export or disable any key, sign anything else, or use an L2 key: that is for a tenant's identity, which it
# must show with every call (policies/tenant.hcl). Both layers of a service key are therefore refused to it alone.
# `update` and never `create`: an encrypt on a missing key must not make one.

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

# The certificate of its own listeners: names, address and usage are the role's to allow, the rest cannot be said here.
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

# Ask whether its own token still lives (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
