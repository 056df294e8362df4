"""Measuring latency and memory."""
