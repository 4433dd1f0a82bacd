"""The benchmarks: ``python -m bench`` makes verdict tables and plots, ``pytest bench`` those of pytest-benchmark."""
