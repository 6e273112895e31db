"""Skipstone."""
