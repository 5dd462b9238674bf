"""Processes of the crypto service: supervisor, workers, shipper."""
