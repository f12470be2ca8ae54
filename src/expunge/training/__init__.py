"""What runs (torch): weights under a guarantee, noise, losses, coins, and interruptions."""
