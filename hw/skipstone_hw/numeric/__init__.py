"""Arithmetic units: free-running pipelines of fixed latency, bit-exact to `skipstone.spec`."""
