"""The core's AXI4 ports: stream reader, byte-strobed writer, and the signatures they speak."""
