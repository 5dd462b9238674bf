"""Enrolment of agents: attestation, requests, relay to workflows."""
