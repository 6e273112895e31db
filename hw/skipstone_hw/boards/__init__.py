"""Boards: what stands round the core so that it runs on one of its own."""
