"""A module of the user's, whose settings a loss reads."""

SMOOTHING = 0.1
TABLE = {"smoothing": 0.1}


def smooth(value):
    return value * SMOOTHING
