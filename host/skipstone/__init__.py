"""Skipstone: an FPGA overlay processor for language models that compute only what each token needs.

Importing this package loads nothing else; its parts are `spec`, `model`, `quant`, `compiler`,
`runtime`, `devices` and `cli`.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
