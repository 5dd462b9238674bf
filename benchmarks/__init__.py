"""Benchmarks of the README's figures: `python -m benchmarks [--quick] [NAME...]` writes a JSON file and a plot each.

Each benchmark starts a separate stack with `make up` (`stack`) and sends events as a marketplace does (`clicks`).
`floor` and `empty_workflow` measure the minimum cost of provisioning without the product's code. `counting` verifies
that this minimum does no more work than the product. `processes` reads CPU and memory. `report` writes results, plots
and docs/benchmarks.md. The product does not import this package.
"""
