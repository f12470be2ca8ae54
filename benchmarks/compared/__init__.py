"""Every unlearner on the same data and the same forget set; run by `benchmarks/comparison.py`."""
