"""The contract in code: configuration, number formats, instructions, registers, image, errors."""
