# The tenant controller. It makes, rotates, disables and enables keys and signs certificates; it cannot use an L2 key (that
# is for a tenant's token), export or delete any key, change what may be exported or deleted, or write policies and roles.

# Make and inspect keys. `+` is exactly one path segment, so keys/<name>/import and whatever else is below a key is not
# reached. Only these parameters are taken: a key made here can never be exportable or backed up in plain text.
path "transit/keys/+" {
  capabilities       = ["create", "update", "read"]
  allowed_parameters = {
    "type"    = ["aes256-gcm96", "ecdsa-p256"]
    "derived" = [true]
  }
}

# The kill switch and its way back (OpenBao only). Neither destroys anything.
path "transit/keys/+/soft-delete" {
  capabilities = ["delete"]
}
path "transit/keys/+/soft-delete-restore" {
  capabilities = ["update"]
}

# Rotate a tenant's keys, its authority's among them: the next version; from which version on it decrypts and encrypts, and nothing else of its
# configuration; and, after a compromise, the end of the versions before it. A pattern cannot say "L2-, and then one of
# these words": of the paths that match, the one whose first wildcard stands further to the right decides, so the
# platform's own keys are taken out by longer ones below.
path "transit/keys/+/rotate" {
  capabilities = ["update"]
}
path "transit/keys/+/config" {
  capabilities       = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
    "min_encryption_version" = []
  }
}
path "transit/keys/+/trim" {
  capabilities       = ["update"]
  allowed_parameters = {
    "min_available_version" = []
  }
}

# A region's root key is made and never taken back: what lies under its versions are all tenants' service keys. This
# reaches everything below it too, so its parameters are what keeps out config and trim; a new version that nobody asked
# for could be made by it and would take nothing away.
path "transit/keys/root-*" {
  capabilities       = ["create", "update", "read"]
  allowed_parameters = {
    "type"    = ["aes256-gcm96"]
    "derived" = [true]
  }
}
# Made when the server is set up, and the worker's only to use.
path "transit/keys/audit-heads/*" {
  capabilities = ["deny"]
}
path "transit/keys/payloads-platform/*" {
  capabilities = ["deny"]
}
path "transit/keys/fingerprints/*" {
  capabilities = ["deny"]
}

# What is kept of a tenant key's fingerprint, which only the tenant's identity can take (policies/tenant.hcl): an HMAC of
# it, by which whoever reads the table can neither recognise a key nor try one. Always by the first version: by another
# one, nothing on record would be found again.
path "transit/hmac/fingerprints" {
  capabilities        = ["update"]
  required_parameters = ["input", "key_version"]
  allowed_parameters  = {
    "input"       = []
    "key_version" = ["1"]
  }
}

# Put a service key under the platform's root key, and take it from there to a customer's and back when a tenant changes
# its root key. What lies beneath is still encrypted under the tenant's L2, which only the tenant's identity may use.
# A rotation does so with thousands of them, many in one call.
path "transit/encrypt/root-*" {
  capabilities       = ["update"]
  allowed_parameters = {
    "plaintext"                     = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}
path "transit/decrypt/root-*" {
  capabilities       = ["update"]
  allowed_parameters = {
    "ciphertext"                    = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

# A tenant's authority: a request for its certificate, and its signature under leaves and revocation lists.
path "transit/keys/+/csr" {
  capabilities = ["update"]
}
path "transit/sign/ca-*" {
  capabilities = ["update"]
}

# The heads of the audit streams; anyone can verify them with the public keys that transit/keys/+ lets us read.
path "transit/sign/audit-heads/sha2-256" {
  capabilities = ["update"]
}

# The data keys of workflow payloads: the worker reads and writes payloads of all tenants, by design of its task.
path "transit/datakey/plaintext/payload*" {
  capabilities = ["update"]
}
path "transit/decrypt/payload*" {
  capabilities = ["update"]
}

# Sign a tenant's authority, always constrained in name and depth. Never pki/issuer/* or sign-verbatim, which ignore
# such limits. The list of allowed parameters is closed: what is not named here is refused. Values are compared as
# they were sent, so the number is a string here and in the request. The pattern cannot keep out a list of names that
# ends in ours; that the certificate names one tenant is checked again by whoever reads it.
path "pki/root/sign-intermediate" {
  capabilities        = ["update"]
  required_parameters = ["permitted_dns_domains", "max_path_length"]
  allowed_parameters  = {
    "csr"                   = []
    "common_name"           = []
    "permitted_dns_domains" = ["*.tenants.openkcm.internal"]
    "max_path_length"       = ["0"]
    "ttl"                   = ["8760h"]
  }
}

# Find an authority that was signed but, because the process died, never recorded.
path "pki/certs" {
  capabilities = ["list"]
}
path "pki/cert/+" {
  capabilities = ["read"]
}

# Ask whether its own token still lives (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
