# The permissions of a token for one tenant. The name in the path is the alias of the token's login (the claim
# `tenant`), so one text serves all tenants and no tenant can use the key of another. The setup of the server replaces
# the word in capitals by the accessor of the JWT mount. `update` and never `create`: an encrypt with a missing key
# must not create one.

path "transit/encrypt/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities = ["update"]
}

path "transit/decrypt/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities = ["update"]
}

# The same plaintext under the key's newest version; the plaintext never leaves the server. Only a batch is accepted,
# because a request for a single ciphertext could choose the version.
path "transit/rewrap/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities       = ["update"]
  allowed_parameters = {
    "batch_input" = []
  }
}

# The fingerprint of a version of the key: an HMAC of this text, with a key that Transit stores with the version only
# for HMACs. The parameters are restricted so that a token can authenticate nothing else.
path "transit/hmac/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities        = ["update"]
  required_parameters = ["input", "key_version"]
  allowed_parameters  = {
    "input"       = ["b3BlbmtjbSB0ZW5hbnQga2V5IGZpbmdlcnByaW50"]
    "key_version" = []
  }
}

# A key that is created in Vault and returned only encrypted. Never datakey/plaintext. Only the context is accepted:
# with a size or associated data the caller could create keys of another kind.
path "transit/datakey/wrapped/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities       = ["update"]
  allowed_parameters = {
    "context" = []
  }
}
