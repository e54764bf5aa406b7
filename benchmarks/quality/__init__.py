"""Which method to trust, at what cost: NEU-DET and drawn defects, all methods, all metrics (docs/quality.md)."""
