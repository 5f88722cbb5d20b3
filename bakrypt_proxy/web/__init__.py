"""The Flask blueprint."""
