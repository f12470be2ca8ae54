"""Where `RunRecord` was once, for scripts that exist; it is in `expunge.certificate.record`."""

from expunge.certificate.record import NoiseRecord, RunRecord

__all__ = ["NoiseRecord", "RunRecord"]
