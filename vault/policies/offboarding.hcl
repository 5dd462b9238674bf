# Who destroys the keys of a tenant that has left, and nothing else. It is an identity of its own, used by the worker's last
# steps of offboarding alone, so that the worker's everyday identity can destroy nothing (policies/worker.hcl). It cannot
# look at, use, sign with, export or make usable any key. The platform's own keys (root-*, audit-heads, payloads-platform, fingerprints) and
# whatever else lies in the same engine do not begin like these, so they are out of its reach.
#
# A pattern cannot end within a path, so each covers what lies below the key too. All that is taken there is the one
# parameter, which must be given: it lets a key be deleted, and to `import`, `trim` or `exportable` it is worth nothing. What
# it cannot keep out is `rotate`, `soft-delete` and its way back, which are less than to destroy.

path "transit/keys/L2-*" {
  capabilities        = ["update", "delete"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters  = {
    "deletion_allowed" = [true]
  }
}
path "transit/keys/ca-*" {
  capabilities        = ["update", "delete"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters  = {
    "deletion_allowed" = [true]
  }
}
path "transit/keys/payload-*" {
  capabilities        = ["update", "delete"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters  = {
    "deletion_allowed" = [true]
  }
}

# Ask whether its own token still lives (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
