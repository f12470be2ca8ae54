"""Certificate, curves and audit as one self-contained page, without torch."""

from expunge.report.curves import Comparison, Curve
from expunge.report.page import render, save

__all__ = ["Comparison", "Curve", "render", "save"]
