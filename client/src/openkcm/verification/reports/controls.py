"""Ids of the controls that each kind of evidence supports, by framework; `evaluation` computes the status.

The ids point an auditor to controls; they do not claim that a control is met. GDPR's are articles, NIST's are
publications with their sections (SP 800-57 is part 1 revision 5 unless stated) or controls of SP 800-53.
"""

from collections.abc import Mapping
from types import MappingProxyType

FRAMEWORKS = ("SOC 2", "ISO 27001:2022", "PCI DSS v4.0.1", "NIST", "GDPR", "CSA CCM v4")


def _ids(*of_each: str) -> Mapping[str, tuple[str, ...]]:
    """Return the ids of each framework, in the order of `FRAMEWORKS`."""
    return MappingProxyType({name: tuple(ids.split("; ")) for name, ids in zip(FRAMEWORKS, of_each, strict=True)})


CONTROLS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Policy for keys, and the roles it names": _ids(
            "CC1.3; CC5.3",
            "5.1; 5.2",
            "3.1.1; 3.1.2; 3.7.8",
            "SP 800-57 part 2; SP 800-130 sections 4 and 5",
            "Art. 24; Art. 28(3)",
            "CEK-01; CEK-02",
        ),
        "Inventory of keys: purpose, holder, state, version, last use": _ids(
            "CC6.1",
            "5.9; 8.24",
            "3.6.1; 3.6.1.1; 12.3.3",
            "SP 800-57 section 6.2; SP 800-130 section 6.2",
            "Art. 30",
            "CEK-21; CEK-11",
        ),
        "Generation of strong keys": _ids(
            "CC6.1", "8.24", "3.7.1", "SP 800-57 section 5.6; SP 800-133", "Art. 32(1)(a)", "CEK-04; CEK-10"
        ),
        "Distribution of keys over mutually authenticated TLS": _ids(
            "CC6.6; CC6.7",
            "8.24; 8.21",
            "3.7.2; 4.2.1",
            "SP 800-52 revision 2; SP 800-130 section 6.6",
            "Art. 32(1)(a)",
            "CEK-03",
        ),
        "Storage of keys: wrapped only, under tenant key and root key": _ids(
            "CC6.1",
            "8.24",
            "3.6.1.2; 3.6.1.3; 3.6.1.4; 3.7.3",
            "SP 800-130 section 6.5",
            "Art. 32(1)(a)",
            "CEK-03",
        ),
        "Cryptoperiods and rotation": _ids("CC6.1", "8.24", "3.7.4", "SP 800-57 section 5.3", "Art. 32", "CEK-12"),
        "Retirement, revocation and destruction of keys": _ids(
            "CC6.5; C1.2; P4.3",
            "8.10; 5.11",
            "3.7.5",
            "SP 800-57 sections 7 and 8.3; SP 800-130 sections 6.3 and 6.4",
            "Art. 17; Art. 5(1)(e); Art. 28(3)(g)",
            "CEK-13; CEK-14; CEK-15; CEK-16; CEK-17; CEK-19",
        ),
        "Root key held by the customer, with a measured revocation": _ids(
            "CC6.1; CC9.2",
            "5.23",
            "3.6.1; 3.7.9",
            "SP 800-130 section 6.8",
            "Art. 32; Art. 44 to 46 (supplementary measure)",
            "CEK-08",
        ),
        "Dual control over locking, offboarding and root keys": _ids(
            "CC6.3; CC5.1", "5.3", "3.7.6", "SP 800-130 section 6.7", "Art. 32(4)", "CEK-02"
        ),
        "Tests of tenant isolation": _ids(
            "CC6.1; CC6.3",
            "8.3; 8.22",
            "A1.1.1; A1.1.2; A1.1.3; A1.1.4; 7.2.1",
            "SP 800-53 SC-2; SP 800-53 AC-4",
            "Art. 25; Art. 32",
            "IVS-06",
        ),
        "Least privilege: who used keys, and who was denied": _ids(
            "CC6.2; CC6.3",
            "5.15; 5.18; 8.2",
            "7.2.1; 7.2.2; 7.2.5; 8.2.1; 8.3.1",
            "SP 800-53 AC-6",
            "Art. 25; Art. 29",
            "IAM-05",
        ),
        "Tamper-evident audit stream": _ids(
            "CC7.2; CC7.3",
            "8.15; 8.16; 8.17; 5.33",
            "10.2.1; 10.3.2; 10.3.3; 10.3.4; 10.5.1; 10.6.1",
            "SP 800-57 section 9; SP 800-53 AU-9; SP 800-53 AU-10",
            "Art. 5(2); Art. 30",
            "LOG-02; LOG-04; CEK-09",
        ),
        "Encryption coverage: which key encrypts which data": _ids(
            "CC6.1; CC6.7; C1.1",
            "8.24; 8.11",
            "3.5.1; 3.5.1.2",
            "SP 800-53 SC-28",
            "Art. 32(1)(a); Art. 34(3)(a)",
            "CEK-03",
        ),
        "Incidents: a key revoked or declared compromised": _ids(
            "CC7.3; CC7.4",
            "5.24; 5.25; 5.26; 5.27; 5.28",
            "3.7.5; 12.10.1",
            "SP 800-57 sections 7.5 and 8.3; SP 800-130 section 6.8",
            "Art. 33; Art. 34",
            "CEK-19",
        ),
        "Availability, backup and recovery of keys": _ids(
            "A1.2; A1.3",
            "8.13; 8.14",
            "3.7.3",
            "SP 800-57 sections 8.2.2 and 9.3; SP 800-130 section 10",
            "Art. 32(1)(b); Art. 32(1)(c)",
            "CEK-20",
        ),
        "Changes recorded, and the controls tested": _ids(
            "CC8.1; CC4.1", "8.32; 8.29", "6.5.1; 11.1.1", "SP 800-130 sections 9 and 11", "Art. 32(1)(d)", "CCC-02"
        ),
        "Substitution of keys and ciphertexts prevented": _ids(
            "CC6.8", "8.24", "3.7.7", "SP 800-57 section 6.1", "Art. 5(1)(f)", "CEK-03"
        ),
    }
)
