# What a token of one tenant may do, for every tenant: the name in the path is the one the token's login was bound to
# (the claim `tenant`, which names the alias), so the text is the same for all and no tenant can reach another's key.
# The word in capitals stands for the accessor of the JWT mount, put in when the server is set up.
# `update` and never `create`: an encrypt on a missing key must not make one.

path "transit/encrypt/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities = ["update"]
}

path "transit/decrypt/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities = ["update"]
}

# The same plaintext under the key's newest version, which leaves the server as little as it enters it. A batch is all that
# is taken: beside it a single ciphertext's version could be chosen.
path "transit/rewrap/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities       = ["update"]
  allowed_parameters = {
    "batch_input" = []
  }
}

# The fingerprint of a version of the key: an HMAC of this one text, under a key that Transit keeps beside the version for
# nothing else. Only so much is taken that no token can have anything else authenticated.
path "transit/hmac/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities        = ["update"]
  required_parameters = ["input", "key_version"]
  allowed_parameters  = {
    "input"       = ["b3BlbmtjbSB0ZW5hbnQga2V5IGZpbmdlcnByaW50"]
    "key_version" = []
  }
}

# A key made in Vault and returned only encrypted. Never datakey/plaintext, and nothing but the context is taken: a size
# or associated data of the caller's choice would make keys of another kind.
path "transit/datakey/wrapped/L2-{{identity.entity.aliases.JWT_ACCESSOR.name}}-primary" {
  capabilities       = ["update"]
  allowed_parameters = {
    "context" = []
  }
}
