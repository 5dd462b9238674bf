"""KMIP encoding: tags, enumerations, TTLV, framing."""
