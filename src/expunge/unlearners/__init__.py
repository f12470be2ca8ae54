"""Ways to unlearn, one file each under its mechanism's name."""
