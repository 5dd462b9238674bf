"""The folder that `openkcm run` puts on PYTHONPATH; Python imports `sitecustomize` from it before the program."""
