"""The three ways to hold the root key, side by side and as they are: what each gives, costs and risks."""

from dataclasses import dataclass

_QUESTIONS = (
    "Who holds the root key",
    "Who can open your data",
    "Your kill switch",
    "If the key is disabled or out of reach",
    "If the key is destroyed",
    "Latency",
    "Cost",
    "What you need",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way; `facts` are questions and answers in the same order for all."""

    name: str
    short: str
    facts: tuple[tuple[str, str], ...]
    in_force: bool


_PLATFORM = (
    "The platform, in its key server in your region.",
    (
        "Your services. The platform could as well, because it holds both the root key and your tenant key. The "
        "isolation keeps every other customer out; it does not exclude the platform."
    ),
    "None that is out of the platform's hands.",
    "No service key opens until the platform has mended it. Keys that are open stay usable for a minute at most.",
    "Nothing that was encrypted can be read again. Keeping the key safe is the platform's duty.",
    "None to speak of: the root key is next to your tenant key, and an opened service key serves for up to a minute.",
    "Nothing beyond the service.",
    "Nothing.",
)
_BYOK = (
    "You, in AWS KMS in your own AWS account. The key never leaves AWS KMS.",
    "Your services, and the platform only while your key lets it. AWS operates the key store.",
    "Disable the key, or withdraw the platform's right to use it, in your AWS account. It is noticed within seconds.",
    (
        "Disabled or withdrawn: your tenant is locked at once and what is open is dropped. Out of reach: what is open "
        "serves for a minute at most, and after a short grace your tenant is locked. It unlocks by itself when the key "
        "works again. There is no silent fallback to a key of the platform."
    ),
    "Nothing that was encrypted can be read again, by anybody. AWS waits 7 to 30 days before it deletes a key.",
    "One call to AWS KMS whenever a service key is opened: about once a minute for each service in use.",
    "AWS charges for the key and for each call.",
    "An AWS account, a symmetric key in your region, and a key policy that lets the platform use it.",
)
_HYOK = (
    "You, in your own HSM, or in your own OpenBao or Vault.",
    "Your services, and the platform only while your HSM or key server answers it.",
    "Disable the key, or withdraw the platform's access to it, on your own premises. It is noticed within seconds.",
    (
        "Disabled or withdrawn: your tenant is locked at once and what is open is dropped. Out of reach: what is open "
        "serves for a minute at most, and after a short grace your tenant is locked. How available your HSM or key "
        "server is decides how available your data is. There is no silent fallback to a key of the platform."
    ),
    "Nothing that was encrypted can be read again, by anybody. Backups of the key are your duty alone.",
    "One call to your HSM or key server whenever a service key is opened: about once a minute for each service in use.",
    "Your HSM or key server, and running it day and night.",
    "An HSM with PKCS#11 or an OpenBao or Vault that the platform can reach, and people who keep it up.",
)
_CHOICES = (
    ("Platform-managed", "default", frozenset({"platform"}), _PLATFORM),
    ("BYOK", "bring your own key, AWS KMS", frozenset({"aws-kms"}), _BYOK),
    ("HYOK", "hold your own key, on-premises", frozenset({"pkcs11", "openbao"}), _HYOK),
)


def choices(root_key_mode: str) -> tuple[Choice, ...]:
    """Return the three ways; the one in force is marked."""
    return tuple(
        Choice(
            name=name,
            short=short,
            facts=tuple(zip(_QUESTIONS, answers, strict=True)),
            in_force=root_key_mode in modes,
        )
        for name, short, modes, answers in _CHOICES
    )
