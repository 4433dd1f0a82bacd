"""The benchmarks: ``python -m bench`` prints tables and draws plots, ``pytest bench`` those of pytest-benchmark."""
