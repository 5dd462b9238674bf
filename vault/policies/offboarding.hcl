# The destruction of an offboarded tenant's keys, and nothing else. It is a separate identity, which the worker uses
# only in the last steps of offboarding, so that the worker's regular identity can destroy nothing
# (policies/worker.hcl). It cannot read, use, sign with, export or enable any key. The platform's keys (root-*,
# audit-checkpoints, payloads-platform, fingerprints) and other keys in the same engine have other prefixes, so this policy
# does not match them.
#
# A pattern cannot end within a path, so each also matches the paths below the key. Only one parameter is accepted
# there, and it is required: it permits the deletion of a key and is invalid for `import`, `trim` or `exportable`. The
# policy cannot exclude `rotate`, `soft-delete` and its reversal, which are less severe than destruction.

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

# Check whether its token is valid (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
