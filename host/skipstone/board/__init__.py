"""Real boards: the PYNQ driver and device, the XRT device, and the metadata that both rely on.

Nothing here imports pynq or pyxrt until a device is opened.
"""
