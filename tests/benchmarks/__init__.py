"""Benchmarks of the published figures: `python -m tests.benchmarks [--quick] [NAME...]` writes JSON files and plots.

Each benchmark starts a separate stack with `openkcm up` (`harness.stack`) and sends events as a marketplace does
(`harness.marketplace_client`). `provisioning.baseline` and `provisioning.empty_workflow` measure the minimum cost of
provisioning without the product's code; `harness.work_counters` verifies that this minimum does no more work than the
product. `report` writes results, plots and docs/benchmarks.md. The product does not import this package.
"""
