"""Rewriting of MongoDB commands: filters, updates, pipelines, projections."""
