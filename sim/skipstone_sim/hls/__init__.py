"""The core's second description, in Vitis HLS C++ (``hls/``): built, bound as devices, packaged.

`build` compiles it, `device` holds the two devices that run it (C simulation and `fast`), `project`
writes what Vitis needs.
"""
