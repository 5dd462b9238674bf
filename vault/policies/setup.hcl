# The update of a server to a newer desired state (setup.apply), after an upgrade changed a policy or a role.
# Optional: it exists only where the launcher creates a secret id for it. An identity that may write policies can do
# anything in the end, so only the launcher can read its secret, and no long-running process of OpenKCM has it.

path "sys/mounts/transit" {
  capabilities = ["create", "update", "read"]
}
path "sys/mounts/pki" {
  capabilities = ["create", "update", "read"]
}
path "sys/mounts/tenant-locks" {
  capabilities = ["create", "update", "read"]
}
path "sys/mounts/transit/tune" {
  capabilities = ["create", "update", "read"]
}
path "sys/mounts/pki/tune" {
  capabilities = ["create", "update", "read"]
}
path "sys/auth/approle/tune" {
  capabilities = ["create", "update", "read", "sudo"]
}
path "sys/auth/+" {
  capabilities = ["create", "update", "read", "sudo"]
}
path "sys/policies/acl/openkcm-*" {
  capabilities = ["create", "update", "read"]
}
path "sys/config/auditing/request-headers/X-Correlation-ID" {
  capabilities = ["create", "update", "read", "sudo"]
}
path "sys/config/auditing/request-headers/X-OpenKCM-Process" {
  capabilities = ["create", "update", "read", "sudo"]
}
path "transit/config/keys" {
  capabilities = ["create", "update", "read"]
}
path "transit/keys/audit-checkpoints" {
  capabilities = ["create", "update", "read"]
}
path "transit/keys/payloads-platform" {
  capabilities = ["create", "update", "read"]
}
path "transit/keys/fingerprints" {
  capabilities = ["create", "update", "read"]
}
path "pki/cert/ca" {
  capabilities = ["read"]
}
path "pki/root/generate/internal" {
  capabilities = ["create", "update"]
}
path "pki/roles/crypto-server" {
  capabilities = ["create", "update", "read"]
}
path "auth/jwt/config" {
  capabilities = ["create", "update", "read"]
}
path "auth/jwt/role/tenant" {
  capabilities = ["create", "update", "read"]
}
path "auth/approle/role/openkcm-*" {
  capabilities = ["create", "update", "read", "list"]
}

# Check whether its token is valid (vault/auth/client.py).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
