"""Evidence of the server, which `openkcm.verification` verifies offline.

audit/           export, OCSF, forwarding
reconciliation/  comparison of the key server's audit log with the audit streams
isolation/       isolation checks, each with its positive control
coverage/        share of the listed data that is encrypted
reports/         compliance reports
"""
