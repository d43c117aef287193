"""Resilience for serverless Python."""
