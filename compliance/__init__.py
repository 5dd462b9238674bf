"""Evidence: made here, verified offline by `openkcm.verification`.

audit/           export, OCSF, forwarding
reconciliation/  the audit log of the key server against the audit streams
isolation/       the attack suites, each with its positive controls
coverage/        how much of the listed data is encrypted
reports/         compliance reports
"""
