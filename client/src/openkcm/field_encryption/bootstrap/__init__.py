"""The folder that `openkcm run` adds to PYTHONPATH; Python imports `sitecustomize` from it before the program."""
