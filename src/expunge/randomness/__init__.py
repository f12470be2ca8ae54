"""The one source of everything drawn in secret: keys, cryptographic words, normal numbers, coins.

`secret` holds and derives keys, `stream` makes words of them, `gaussian` normal numbers, `coins` biased coins; `grid` says to
which public step a release is rounded. Nothing else in the package draws what must stay secret (docs/randomness.md).
"""
