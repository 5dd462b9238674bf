# The tenant controller. It creates, rotates, disables and enables keys and signs certificates. It cannot use an L2 key
# (that requires a tenant's token), export or delete any key, change which keys may be exported or deleted, or write
# policies and roles.

# Create and read keys. `+` is exactly one path segment, so keys/<name>/import and all other paths below a key do not
# match. Only these parameters are accepted, so a key created here is never exportable or backed up in plaintext.
path "transit/keys/+" {
  capabilities       = ["create", "update", "read"]
  allowed_parameters = {
    "type"    = ["aes256-gcm96", "ecdsa-p256"]
    "derived" = [true]
  }
}

# Disable and enable a key (OpenBao only). Neither destroys anything.
path "transit/keys/+/soft-delete" {
  capabilities = ["delete"]
}
path "transit/keys/+/soft-delete-restore" {
  capabilities = ["update"]
}

# Rotate a tenant's keys, including that of its CA: create the next version; set the minimum versions for decryption and
# encryption, and nothing else in the configuration; and delete older versions after a compromise. A pattern cannot
# express "L2- and one of these words". Of the matching paths the one with its first wildcard furthest right applies, so
# longer paths below exclude the platform's keys.
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

# A region's root key is created and no version is ever retired, because its versions wrap the service keys of all
# tenants. This pattern also matches the paths below the key; its parameters exclude config and trim. It permits an
# additional version, which does no harm.
path "transit/keys/root-*" {
  capabilities       = ["create", "update", "read"]
  allowed_parameters = {
    "type"    = ["aes256-gcm96"]
    "derived" = [true]
  }
}
# The keys of workflow payloads are rotated automatically. As above, the parameters exclude config and trim, so no
# version is ever retired: histories stay readable.
path "transit/keys/payload-*" {
  capabilities       = ["create", "update", "read"]
  allowed_parameters = {
    "type"               = ["aes256-gcm96"]
    "auto_rotate_period" = ["2160h"]
  }
}
# Created by the setup of the server; the worker may only use them.
path "transit/keys/audit-checkpoints/*" {
  capabilities = ["deny"]
}
path "transit/keys/payloads-platform/*" {
  capabilities = ["deny"]
}
path "transit/keys/fingerprints/*" {
  capabilities = ["deny"]
}

# The stored form of a tenant key's fingerprint, which only the tenant's identity can compute (policies/tenant.hcl).
# It is an HMAC of the fingerprint, so that a reader of the table can neither recognise nor test a key. Always with
# the first version: another version would match no recorded fingerprint.
path "transit/hmac/fingerprints" {
  capabilities        = ["update"]
  required_parameters = ["input", "key_version"]
  allowed_parameters  = {
    "input"       = []
    "key_version" = ["1"]
  }
}

# Wrap and unwrap service keys with the platform's root key, also when a tenant changes its root key. The inner layer is
# still encrypted under the tenant's L2, which only the tenant's identity may use. A rotation processes thousands of
# service keys in batches.
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

# A tenant CA: the CSR for its certificate, and its signatures of leaves and CRLs.
path "transit/keys/+/csr" {
  capabilities = ["update"]
}
path "transit/sign/ca-*" {
  capabilities = ["update"]
}

# Checkpoints of audit streams; anyone can verify them with the public keys, which transit/keys/+ permits to read.
path "transit/sign/audit-checkpoints/sha2-256" {
  capabilities = ["update"]
}

# The data keys of workflow payloads: the worker has to read and write the payloads of all tenants.
path "transit/datakey/plaintext/payload*" {
  capabilities = ["update"]
}
path "transit/decrypt/payload*" {
  capabilities = ["update"]
}

# Sign a tenant CA, always with name and path length constraints. Never pki/issuer/* or sign-verbatim, which ignore such
# constraints. All other parameters are rejected. Values are compared as sent, so the number is a string here and in the
# request. The pattern cannot exclude a list of names that ends in this domain; each reader of the certificate therefore
# verifies that it names one tenant.
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

# Find a CA certificate that was signed but not recorded because of a crash.
path "pki/certs" {
  capabilities = ["list"]
}
path "pki/cert/+" {
  capabilities = ["read"]
}

# The locks of tenants (vault/tenant_locks.py).
path "tenant-locks/+" {
  capabilities = ["create", "update", "read", "delete"]
}
path "tenant-locks/" {
  capabilities = ["list"]
}

# Check whether its token is valid (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
