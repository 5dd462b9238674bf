"""What the README claims in numbers, measured: `python -m benchmarks [--quick] [NAME...]`, one JSON and one plot each.

`provision_latency`, `burst` and `scale` are the benchmarks; each starts a stack of its own with `make up`
(`stack`) and speaks to it as a marketplace does (`clicks`). `floor` and `empty_workflow` are what provisioning would
cost with nothing of ours around it, `counting` proves that the floor does no more work than the product, `processes`
reads CPU and memory, and `report` writes results, plots and docs/benchmarks.md. The product imports none of it.
"""
