"""Lower bounds on ε from attacks: what an audit saw, and how much it refutes. Arrays and counts only, no torch.

An audit never proves a guarantee. It refutes one, or it does not.
"""
