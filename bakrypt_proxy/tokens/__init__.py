"""One token for many callers."""
