"""Benchmarks of the published figures: `python -m tests.benchmarks [--quick] [NAME...]` writes JSON files and plots.

Each benchmark starts a separate stack with `make up` (`stack`) and sends events as a marketplace does (`clicks`).
`floor` and `empty_workflow` measure the minimum cost of provisioning without the product's code. `counting` verifies
that this minimum does no more work than the product. `processes` reads CPU and memory. `report` writes results, plots
and docs/benchmarks.md. The product does not import this package.
"""
